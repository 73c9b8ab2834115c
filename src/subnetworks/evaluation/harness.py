"""One checkpoint, all its benchmarks, one server: prepare, ask, grade, write."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subnetworks.core import files, outputs, provenance
from subnetworks.core.errors import UserError
from subnetworks.core.files import canonical_json, locked, write_json
from subnetworks.core.progress import Progress
from subnetworks.core.provenance import recorded, versions
from subnetworks.evaluation import backends, definitions, rows, scores
from subnetworks.evaluation import checkpoint as checkpoints
from subnetworks.evaluation import machine as machines
from subnetworks.evaluation import settings as benchmark_settings
from subnetworks.evaluation.answers import Answers
from subnetworks.evaluation.benchmark import Benchmark
from subnetworks.evaluation.checkpoint import Checkpoint
from subnetworks.evaluation.machine import Machine
from subnetworks.evaluation.preparing import NoAccess, prepare, seed_all
from subnetworks.evaluation.settings import Settings
from subnetworks.grading import grader

ROOM_FOR_PROMPTS = 4096
_SHOWN = ("metric", "score", "stderr", "interval_95", "n", "cut")


def evaluate(
    checkpoint: Path,
    benchmarks: Mapping[str, Mapping[str, Any]],
    output: Path,
    accelerator: Mapping[str, Any],
    *,
    backend: str | None = None,
    seed: int = 0,
    redo: bool = False,
) -> dict[str, Any]:
    """Score a checkpoint on benchmarks.

    Writes `<benchmark>.json` (score, uncertainty, provenance), `<benchmark>.samples.parquet` (one
    row per question) and, when all are there, the index `scores.json` into `output`. A score that
    is there already for the same weights, rows and settings is kept; one that was begun goes on
    from the answers it has; a gated benchmark without access is skipped, and the index says so.

    Args:
        checkpoint: a Hugging Face folder.
        benchmarks: settings by benchmark name; see `settings.Settings`.
        output: the folder for the results.
        accelerator: keys of `machine.Machine`.
        backend: one of `machine.BACKENDS` instead of the accelerator's.
        seed: of few-shot choice and sampling.
        redo: score anew what is there.

    Returns:
        What `scores.json` holds.

    Raises:
        UserError: settings, rows or checkpoint that cannot work, a prompt longer than the context,
            something in the way of the scores, or a server that does not come up or dies; nothing
            is then written as a score.
    """
    started = time.monotonic()
    if not benchmarks:
        raise UserError("no benchmarks asked for")
    asked = {"backend": backend} if backend else {}
    machine = machines.parse({**accelerator, **asked})
    parsed = {name: benchmark_settings.parse(name, entry) for name, entry in benchmarks.items()}
    inspected = checkpoints.inspect(checkpoint, any(s.chat for s in parsed.values()))
    wanted = [
        _benchmark(name, settings, inspected, machine, seed) for name, settings in parsed.items()
    ]
    facts: dict[str, Any] = {
        "seed": seed,
        "checkpoint_digest": inspected.digest,
        "accelerator": machine.as_dict(),
    }
    index_file, *_ = claim(checkpoint, wanted, output)
    with locked(output), recorded(index_file, **facts):
        outputs.begin(index_file)
        ready: float | None = None
        skipped: dict[str, str] = {}
        pending = [b for b in wanted if redo or not _finished(b, output)]
        if pending:
            ready, skipped = _score(pending, inspected, output, machine, seed)
        found = {
            b.name: json.loads(_result(b, output).read_text())
            for b in wanted
            if b.name not in skipped
        }
        index = {
            "checkpoint": checkpoint.resolve().name,
            "checkpoint_digest": inspected.digest,
            "scores": {name: {key: score[key] for key in _SHOWN} for name, score in found.items()},
            "skipped": skipped,
            "seconds": {
                "all": round(time.monotonic() - started, 1),
                "loading": None if ready is None else round(ready, 1),
            },
        }
        write_json(output / "scores.json", index)
    return index


def claim(checkpoint: Path, wanted: Sequence[Benchmark], output: Path) -> list[outputs.Output]:
    """Check where an evaluation is to write (`subnetworks.core.outputs`); gives the index and
    scores.

    Raises:
        UserError: something else is in the way.
    """
    rows_read = [Path(b.settings.data) for b in wanted if b.settings.data is not None]
    files = [("index", output / "scores.json")]
    for benchmark in wanted:
        files += [("score", _result(benchmark, output)), ("samples", _samples(benchmark, output))]
    claimed = outputs.claim("evaluate", reads=[checkpoint, *rows_read], files=files)
    known = outputs.purpose_of(outputs.read_record(claimed[0].record), "scores.json")
    working = [_answers(benchmark, output) for benchmark in wanted]
    outputs.check_working(
        "evaluate", [output / "server.log", _tasks(output), *working], known.startswith("evaluate")
    )
    return claimed


def _benchmark(
    name: str,
    settings: Settings,
    checkpoint: Checkpoint,
    machine: Machine,
    seed: int,
) -> Benchmark:
    """Check a benchmark's rows, and say by a digest what its score will depend on."""
    task, files = settings.definition, None
    if settings.data is not None:
        files = rows.locate(settings.data, task, settings.shots, f"benchmark {name}")
        rows.read(files.test, task)
        if files.shots is not None:
            found = len(rows.read(files.shots, task))
            if found < settings.shots:
                raise UserError(f"{files.shots}: {found} rows, but shots: {settings.shots}")
    depends = {
        "checkpoint": checkpoint.digest,
        "settings": {key: value for key, value in settings.as_dict().items() if key != "data"},
        "data": files.sha256() if files else None,
        "dtype": machine.dtype,
        "kind": machine.kind,
        "backend": machine.backend,
        "seed": seed,
        "grader": grader.VERSION,
        "versions": versions(["lm_eval", "math-verify", "transformers", "vllm"]),
    }
    fingerprint = hashlib.sha256(canonical_json(depends).encode()).hexdigest()
    return Benchmark(name, settings, files, fingerprint, {}, {})


def _result(benchmark: Benchmark, output: Path) -> Path:
    return output / f"{benchmark.name}.json"


def _samples(benchmark: Benchmark, output: Path) -> Path:
    return output / f"{benchmark.name}.samples.parquet"


def _answers(benchmark: Benchmark, output: Path) -> Path:
    return output / f".{benchmark.name}.answers.jsonl"


def _tasks(output: Path) -> Path:
    return output / ".tasks"


def _remove_tasks(folder: Path) -> None:
    """Remove the definitions that were written for lm-eval, and no file of the user's."""
    files.remove_own(folder, lambda name: definitions.is_own(folder / name))


def _finished(benchmark: Benchmark, output: Path) -> bool:
    try:
        provenance.check(_result(benchmark, output))
        provenance.check(_samples(benchmark, output))
        result = json.loads(_result(benchmark, output).read_text(encoding="utf-8"))
        return (
            result["fingerprint"] == benchmark.fingerprint and _samples(benchmark, output).is_file()
        )
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return False


def _score(
    pending: Sequence[Benchmark],
    checkpoint: Checkpoint,
    output: Path,
    machine: Machine,
    seed: int,
) -> tuple[float | None, dict[str, str]]:
    """Load the checkpoint and write the scores.

    Returns:
        The seconds until it answered (None if nothing was to be asked), and why benchmarks were
        skipped, by their names.
    """
    longest = max(benchmark.longest for benchmark in pending)
    context = machine.max_model_len or ROOM_FOR_PROMPTS + longest
    if checkpoint.context is not None:
        context = min(context, checkpoint.context)
    folder = _tasks(output)  # a kill leaves it, the next start replaces it
    _remove_tasks(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _quieten(all(benchmark.files is not None for benchmark in pending))
    print(f"loading {checkpoint.path.name}", file=sys.stderr, flush=True)
    log = output / "server.log"
    with backends.opened(checkpoint.path, machine, context, seed, log) as opened:
        ready: list[Benchmark] = []
        skipped: dict[str, str] = {}
        for benchmark in pending:
            try:
                prepare(
                    benchmark, opened.model, folder, context, context == checkpoint.context, seed
                )
                ready.append(benchmark)
            except NoAccess as error:
                skipped[benchmark.name] = str(error)
                print(f"skipped: {error}", file=sys.stderr, flush=True)
                for stale in (_result(benchmark, output), _samples(benchmark, output)):
                    stale.unlink(missing_ok=True)
        seconds = opened.ready() if ready else None
        for benchmark in ready:
            try:
                with Progress(benchmark.name, benchmark.requests, "answer") as bar:
                    _run(benchmark, opened.model, checkpoint, output, machine, seed, bar.advance)
            except Exception as error:
                if (plain := opened.explain(error, benchmark.name)) is not None:
                    raise plain from error
                raise
        _remove_tasks(folder)
        return seconds, skipped


def _quieten(local: bool) -> None:
    """Leave standard error to our progress; let nothing ask the Hub if all rows are here."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if local:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from datasets import disable_caching  # only now: it reads the environment

    disable_caching()  # shuffled rows would keep the seed of whoever came first


def _run(
    benchmark: Benchmark,
    model: Any,
    checkpoint: Checkpoint,
    output: Path,
    machine: Machine,
    seed: int,
    done: Any,
) -> None:
    """Ask a benchmark's questions, grade the answers, write samples and score."""
    from lm_eval.evaluator import evaluate as ask

    started = time.monotonic()
    settings, task = benchmark.settings, benchmark.settings.definition
    facts = {"settings": settings.as_dict(), "seed": seed, "checkpoint_digest": checkpoint.digest}
    answers = Answers(_answers(benchmark, output), benchmark.fingerprint)
    resumed = answers.found
    results = (
        outputs.Output.of(_result(benchmark, output), "evaluate score"),
        outputs.Output.of(_samples(benchmark, output), "evaluate samples"),
    )
    with recorded(*results, **facts):
        try:
            model.begin(answers, benchmark.longest, done)
            seed_all(seed)
            results = ask(
                lm=model,
                task_dict={"tasks": benchmark.tasks, "groups": {}},
                limit=settings.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=settings.chat,
            )
        finally:
            answers.close()
        items = scores.items_of(benchmark, results["samples"])
        scores.check_against(benchmark, results, items)
        scores.write_samples(items, _samples(benchmark, output))
        result = {
            "checkpoint": checkpoint.path.resolve().name,
            "checkpoint_digest": checkpoint.digest,
            "benchmark": benchmark.name,
            "metric": f"avg@{settings.samples}" if settings.samples > 1 else task.metric,
            **scores.of_items(items),
            "groups": scores.by_group(items),
            "other_metrics": scores.other_metrics(items, settings),
            "settings": settings.as_dict(),
            "data": scores.data_of(benchmark),
            "task": {
                "name": task.name,
                "version": next(iter(benchmark.tasks.values())).VERSION,
                "definition": "ours" if task.own else "lm_eval",
                "grader": grader.VERSION,
                **versions(["lm_eval", "math-verify"]),
            },
            "backend": machine.backend,
            "dtype": machine.dtype,
            "prompts_sha256": benchmark.prompts_sha256,
            "fingerprint": benchmark.fingerprint,
            "requests": benchmark.requests,
            "requests_resumed": resumed,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(_result(benchmark, output), result)
    answers.discard()
