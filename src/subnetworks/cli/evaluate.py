"""`evaluate CHECKPOINT`: score a checkpoint on benchmarks, served by vLLM and asked by lm-eval."""

from pathlib import Path
from typing import Annotated, Any

import typer

from subnetworks.core.errors import UserError
from subnetworks.core.options import json_object


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face folder.")],
    benchmarks: Annotated[
        str, typer.Option(help="Settings by benchmark, as JSON: {name: {task: …, data: …}}.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the scores.")],
    accelerator: Annotated[
        str, typer.Option(help="The machine, as JSON: kind (cpu or cuda), devices, threads, …")
    ] = '{"kind": "cpu", "devices": 1, "threads": 1}',
    backend: Annotated[
        str | None,
        typer.Option(help="served (default), vllm (in this process) or hf (transformers)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of few-shot choice and sampling.")] = 0,
    redo: Annotated[bool, typer.Option("--redo", help="Score anew what is there.")] = False,
) -> None:
    """Score a checkpoint on benchmarks: one JSON file per score, with its standard error.

    Every benchmark also leaves its answers, one row per question, in <benchmark>.samples.parquet.
    cut counts the answers that were cut off at max_tokens and are wrong for that. An evaluation
    that was stopped goes on where it was.

    Example:

    python -m subnetworks evaluate results/mini/checkpoints/grpo
    --output results/mini/evaluation/grpo --benchmarks
    '{"math500": {"task": "math500", "data": "results/mini/benchmarks/math500", "instruction": ""}}'
    """
    from subnetworks.evaluation import harness

    found = harness.evaluate(
        checkpoint,
        {
            name: entry
            for name, entry in json_object(benchmarks, "--benchmarks").items()
            if _is_entry(name, entry)
        },
        output,
        json_object(accelerator, "--accelerator"),
        backend=backend,
        seed=seed,
        redo=redo,
    )
    for name, score in found["scores"].items():
        low, high = score["interval_95"]
        typer.echo(
            f"{name}: {score['score']:.4f} ± {score['stderr']:.4f} "
            f"[{low:.4f}, {high:.4f}], n = {score['n']}, cut = {score['cut']}"
        )
    for name in found["skipped"]:
        typer.echo(f"{name}: skipped, no access")


def _is_entry(name: str, entry: Any) -> bool:
    if not isinstance(entry, dict):
        raise UserError(f"--benchmarks: {name}: expected an object of settings")
    return True
