"""Every benchmark runs, at a tiny size: what it prints of times and memory is not looked at."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "tests" / "system" / "benchmarks"
EVALUATING = "--questions 2 --tokens 4 --size 64 --layers 2 --threads 1".split()


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def printed(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_measuring(tmp_path: Path) -> None:
    needs("numba", "scipy", "torch", "safetensors")
    mine = tmp_path / "mine.txt"
    mine.touch()
    said = printed("measuring", "--tiny", "--authors", "--folder", str(tmp_path))
    assert "counts equal to the authors': True" in said
    assert "same counts: True" in said
    assert "64 x 32: rank 32, torch 32" in said
    assert list(tmp_path.iterdir()) == [mine]


def test_authors(tmp_path: Path) -> None:
    needs("torch", "safetensors", "numpy")
    sys.path.insert(0, str(BENCHMARKS))
    import synthetic

    n = synthetic.write_pair(tmp_path, 3e5)
    found = json.loads(printed("authors", str(tmp_path / "before"), str(tmp_path / "after")))
    assert found["n"] == n
    assert 0 < found["equal"] <= found["1e-5"] < n


def test_scale() -> None:
    needs("numba", "scipy", "torch")
    said = printed("scale", "--tiny")
    assert "671B, FP8" in said
    assert "growth from 4 to 16" in said
    assert "measured 64 x 96" in said


def test_optimiser() -> None:
    needs("torch", "verl")
    assert "density  20%: state " in printed("optimiser", "--tiny")


def test_steps() -> None:
    needs("torch", "verl", "pydantic")
    said = printed("steps", *"--model tiny --density 0.2 --rounds 1".split())
    lines = [line.split() for line in said.splitlines()]
    full, _, masked, paper = lines[3:7]
    # Weights, gradients, moments and indices are those reckoned on paper.
    assert masked[0] == "20.1%"
    assert masked[1:5] == paper[:4] == ["0.56", "0.56", "0.22", "0.11"]
    # What autograd keeps is the same within a mask.
    assert masked[5] == full[5]
    assert "100.00% on paper" in said


def test_planning() -> None:
    needs("snakemake")
    assert "3 checkpoints: " in printed("planning", "3")


def test_evaluating() -> None:
    needs("lm_eval", "math_verify", "vllm")
    said = printed("evaluating", *EVALUATING)
    assert "served : hf, choices, tokens/s: " in said
    assert "served : hf, answers, tokens/s: " in said
