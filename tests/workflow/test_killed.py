"""A GRPO run killed half-way goes on from its last saved step."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ENVIRONMENT, ROOT, run_snakemake

EXPERIMENT = f"""
checkpoints:
  start: {{ path: {ROOT}/results/mini/checkpoints/sft }}
datasets:
  problems: {{ make: problems, rows: 256, seed: 5 }}
runs:
  killed:
    algorithm: grpo
    init: start
    data: problems
    steps: 40
    batch_size: 4
    samples_per_prompt: 2
    learning_rate: 1.0e-6
    save_every: 4
    trajectory_every: 4
    max_prompt_length: 32
    max_response_length: 8
"""
STEPS = 40


def logged_steps(path: Path) -> list[int]:
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return [int(row["step"]) for row in csv.DictReader(handle)]


def descendants_of(folder: Path) -> list[int]:
    """Processes whose working folder or command names `folder`: what the killed workflow left."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
                inside = (process / "cwd").resolve().is_relative_to(folder)
            except OSError:
                continue
            if inside or str(folder) in command:
                found.append(int(process.name))
    return found


@pytest.mark.usefixtures("mini")
def test_a_killed_run_resumes_and_nothing_half_written_counts(copy: Path) -> None:
    (copy / "results").unlink()
    (copy / "experiments" / "resume.yaml").write_text(EXPERIMENT)
    target = "results/resume/checkpoints/killed/manifest.json"
    arguments = ["--cores", "1", "--config", "experiment=resume", "--", target]
    saved = copy / "results" / "resume" / "runs" / "killed" / "state"

    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=copy,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list(saved.rglob("*global_step_4*")):
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no saved step within five minutes"
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(5)
    assert not [pid for pid in descendants_of(copy) if pid != os.getpid()], "something lives on"
    assert not (copy / target).exists()

    run_snakemake("--unlock", "--config", "experiment=resume", folder=copy)
    again = run_snakemake(*arguments, folder=copy)
    assert again.returncode == 0, again.stderr
    assert (copy / target).exists()
    steps = logged_steps(copy / "results" / "resume" / "runs" / "killed" / "log.csv")
    assert steps == list(range(1, STEPS + 1))
    # It went on: the steps before the kill were not trained a second time.
    meta = json.loads((copy / "results/resume/runs/killed/log.csv.meta.json").read_text())
    assert meta["resumed_from_step"] >= 4
    trajectory = copy / "results" / "resume" / "runs" / "killed" / "trajectory"
    listed = json.loads((trajectory / "manifest.json").read_text())["steps"]
    assert [row["step"] for row in listed] == list(range(4, STEPS + 1, 4))
    assert {path.name for path in trajectory.glob("*step*")} == {row["file"] for row in listed}
