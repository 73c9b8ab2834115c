"""The checks that are prepared for a GPU run on a CPU, small: equal counts, equal bits."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "system" / "gpu" / "run.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "--device", "cpu:0", "--plain", "--seconds", "3000", *arguments],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_every_part_passes_on_a_cpu() -> None:
    for package in ("numba", "scipy", "torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed, 0 FAILED, 2 skipped" in done.stdout  # the engine, twice
    for check in ("measure: mask equal", "rank: equal", "DPO, plain torch: compact and dense"):
        assert f"passed   {check}" in done.stdout


def test_what_cannot_run_is_skipped_with_its_reason() -> None:
    """And where nothing could run, that is no success."""
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("torch is here")
    done = run("optimiser", "dpo")
    assert done.returncode == 1
    assert "skipped  optimiser  no torch" in done.stdout


def test_an_unknown_part_is_named() -> None:
    done = run("optimizer")
    assert done.returncode == 2
    assert "no part 'optimizer'; there are: optimiser, measure, rank, dpo, grpo" in done.stderr
