"""Time served evaluation beside lm-eval's `hf` model.

The same random model of bytes, made here, is asked the same questions by both, one after the other:
choices by log-likelihood, and open answers of a fixed length. What counts are ratios. Needs the
evaluation environment and an otherwise idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "unit" / "evaluation")]

import pyarrow.parquet  # noqa: E402
from conftest import save_checkpoint, write_rows  # noqa: E402

WORDS = "the court held that no duty of care was owed to a person so far removed ".split()


def text(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(words))


def make(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Questions of some 500 bytes with four choices, and short ones with long answers."""
    choices = [
        {
            "query": f"Q{i}: {text(i, 90)}\nA:",
            "choices": [f" {text(i + k, 8)}" for k in range(4)],
            "gold": [i % 4],
        }
        for i in range(arguments.questions)
    ]
    problems = [
        {"problem": f"{text(i, 12)} {i}", "answer": "1", "level": 1}
        for i in range(arguments.questions)
    ]
    return {
        "choices": {
            "task": "agieval_lsat_ar",
            "data": str(write_rows(folder / "choices.jsonl", choices)),
        },
        "answers": {
            "task": "math500",
            "data": str(write_rows(folder / "answers.jsonl", problems)),
            "max_tokens": arguments.tokens,
        },
    }


def evaluate(
    checkpoint: Path, benchmarks: dict[str, dict[str, object]], output: Path, machine: str
) -> float:
    """Wall time in seconds of one evaluation on all benchmarks."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "subnetworks", "evaluate", str(checkpoint)]
    options = ["--output", str(output), "--benchmarks", json.dumps(benchmarks)]
    subprocess.run(
        [*command, *options, "--accelerator", machine],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def main() -> None:
    """Make, time, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=64, help="of each kind (64)")
    parser.add_argument("--tokens", type=int, default=128, help="of each open answer (128)")
    parser.add_argument("--size", type=int, default=384, help="hidden size of the model (384)")
    parser.add_argument("--layers", type=int, default=8, help="of the model (8)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = save_checkpoint(
            folder / "model", 2048, size=arguments.size, layers=arguments.layers
        )
        weights = (checkpoint / "model.safetensors").stat().st_size // 2
        print(
            f"a random model of {weights / 1e6:.0f} M weights (bfloat16), {arguments.threads} cores"
        )
        benchmarks = make(folder, arguments)
        machine = {"kind": "cpu", "threads": arguments.threads}
        walls, rates = {}, {}
        for backend in ("served", "hf"):
            output = folder / backend
            machine["backend"] = backend
            walls[backend] = evaluate(checkpoint, benchmarks, output, json.dumps(machine))
            for benchmark in benchmarks:
                found = json.loads((output / f"{benchmark}.json").read_text())
                rows = pyarrow.parquet.read_table(output / f"{benchmark}.samples.parquet")
                if benchmark == "choices":  # a token is a byte
                    tokens = sum(4 * (len(row["prompt"]) + 40) for row in rows.to_pylist())
                else:
                    tokens = arguments.tokens * rows.num_rows
                rates[benchmark, backend] = tokens / found["seconds"]
                print(
                    f"{backend:7} {benchmark:8} {found['seconds']:7.1f} s "
                    f"{rates[benchmark, backend]:9.0f} tokens/s"
                )
            seconds = json.loads((output / "scores.json").read_text())["seconds"]
            print(f"{backend:7} in all {walls[backend]:7.1f} s, loading {seconds['loading']} s")
        for benchmark in benchmarks:
            ratio = rates[benchmark, "served"] / rates[benchmark, "hf"]
            print(f"served : hf, {benchmark}, tokens/s: {ratio:.2f}")
        print(f"served : hf, wall time with loading: {walls['served'] / walls['hf']:.2f}")


if __name__ == "__main__":
    main()
