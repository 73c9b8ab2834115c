"""Small experiments through a real SLURM: with one job killed, one timed out and one preempted, and
with runs that span two nodes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from running import ENVIRONMENT, copy_checkout, run_snakemake

from subnetworks.core.files import sha256

SCRIPT = Path(__file__).with_name("one_node.sh")
EXPERIMENT = """
checkpoints:
  base: { make: base, steps: 20, seed: 0 }
datasets:
  demonstrations: { make: demonstrations, rows: 640, seed: 1 }
  pairs: { make: foreign_preferences, rows: 640, seed: 6 }
runs:
  start:
    algorithm: sft
    init: base
    data: demonstrations
    steps: 5
    batch_size: 32
    learning_rate: 5.0e-4
    max_length: 128
  killed:
    algorithm: dpo
    init: start
    data: pairs
    steps: 120
    batch_size: 32
    learning_rate: 1.5e-6
    save_every: 10
    trajectory_every: 40
    max_length: 64
  preempted: { like: killed, seed: 1 }
  timed_out: { like: killed, seed: 2, steps: 300 }
overlaps:
  seeds: { masks: [killed, preempted] }
tables:
  table_1_update_sparsity:
    updates:
      - { update: killed, algorithm: DPO }
      - { update: preempted, algorithm: DPO }
      - { update: timed_out, algorithm: DPO }
"""
THROUGH_SLURM = (
    *("--config", "experiment=cluster", "--workflow-profile", "profiles/slurm"),
    *("--slurm-init-seconds-before-status-checks", "3"),
)
RUNS = ("killed", "preempted", "timed_out")
# GPUs that are not there bring one run into the other partition; one gets too little time at first.
RESOURCES = (
    "train:gpu=2 if wildcards.run == 'preempted' else 0",
    "train:runtime=1 if wildcards.run == 'timed_out' and attempt == 1 else 30",
)


TWO_NODES = """
checkpoints:
  base: { make: base, steps: 5, seed: 0 }
datasets:
  demonstrations: { make: demonstrations, rows: 64, seed: 1 }
  problems: { make: problems, rows: 64, seed: 2 }
runs:
  start:
    algorithm: sft
    init: base
    data: demonstrations
    steps: 4
    batch_size: 8
    learning_rate: 5.0e-4
    max_length: 128
  rewarded:
    algorithm: grpo
    init: base
    data: problems
    steps: 2
    batch_size: 4
    samples_per_prompt: 2
    learning_rate: 1.0e-6
    max_prompt_length: 32
    max_response_length: 8
"""


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of a running SLURM of one node, or of as many as the parameter says."""
    if not (shutil.which("sbatch") and shutil.which("slurmctld")):
        pytest.skip(f"no SLURM here: `{SCRIPT.name} install` installs it on Debian")
    if os.geteuid():
        pytest.skip("a SLURM is started by root only")
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("/etc/slurm/slurm.conf: a SLURM is set up here, the test starts its own")
    # A short path: it holds a socket.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        # More cores than there may be, so that no run waits for another.
        shape = {"CPUS": "4", "NODES": str(getattr(request, "param", 1))}
        subprocess.run([SCRIPT, "start", folder], check=True, env=ENVIRONMENT | shape)
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        shutil.rmtree(folder)


class Job(NamedTuple):
    """A SLURM job that trained a run."""

    number: int
    partition: str
    state: str
    restarts: int
    nodes: int


def jobs_of(run: str) -> list[Job]:
    """All jobs that trained a run, in the order of their submission."""
    command = ["scontrol", "show", "job", "--oneliner"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in listed.splitlines()
    ]
    return sorted(
        Job(
            number=int(job["JobId"]),
            partition=job["Partition"],
            state=job["JobState"],
            restarts=int(job["Restarts"]),
            nodes=int(job["NumNodes"]),
        )
        for job in entries
        if job.get("Comment") == f"rule_train_wildcards_{run}"
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "Snakemake ended before that"
        assert time.monotonic() < deadline, f"waited {seconds} s for nothing"
        time.sleep(0.1)


def prepare(folder: Path, experiment: str, **accelerator: int) -> None:
    """A checkout with an experiment `cluster`, on a CPU accelerator changed like that."""
    copy_checkout(folder)
    (folder / "experiments" / "cluster.yaml").write_text(experiment)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["accelerators"]["cpu"] |= accelerator
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def results(folder: Path) -> dict[str, str]:
    """Digests of what must not depend on how often a job was started."""
    patterns = (
        "checkpoints/*/*.safetensors",
        "masks/*.safetensors",
        "runs/*/trajectory/*.safetensors",
        "overlaps/*.json",
        "tables/*.csv",
    )
    root = folder / "results" / "cluster"
    files = [file for pattern in patterns for file in root.glob(pattern)]
    kept = [file for file in files if not file.name.endswith(".meta.json")]
    return {str(file.relative_to(root)): sha256(file) for file in kept}


def test_killed_timed_out_and_preempted_jobs_change_no_result(
    cluster: Path, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("disturbed", "undisturbed")}
    for folder in folders.values():
        prepare(folder, EXPERIMENT)
    runs = folders["disturbed"] / "results" / "cluster" / "runs"

    log = tmp_path / "snakemake.log"
    arguments = [*THROUGH_SLURM, "--set-resources", *RESOURCES]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=folders["disturbed"],
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
        )
    try:
        waiting = {"killed", "preempted"}
        while waiting:
            wait_for(
                lambda: any(list(runs.glob(f"{run}/state/global_step_*")) for run in waiting),
                process,
                600,
            )
            for run in sorted(waiting):
                if list(runs.glob(f"{run}/state/global_step_*")):
                    waiting.remove(run)
                    if run == "killed":
                        subprocess.run(["scancel", str(jobs_of(run)[-1].number)], check=True)
                    else:
                        urgent = ["sbatch", "--partition=urgent", "--gpus=2", "--output=/dev/null"]
                        subprocess.run([*urgent, "--wrap=sleep 1"], check=True)
        process.wait(timeout=900)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, log.read_text()

    ended = {run: [job.state for job in jobs_of(run)] for run in RUNS}
    assert ended["killed"] == ["CANCELLED", "COMPLETED"]
    assert ended["timed_out"] == ["TIMEOUT", "COMPLETED"]
    # SLURM puts it back into the queue, or it ended by itself when told to and is submitted again.
    assert ended["preempted"][-1] == "COMPLETED"
    preempted = jobs_of("preempted")
    assert sum(job.restarts for job in preempted) + len(preempted) - 1 == 1
    for_whom = f"for JobId={preempted[0].number} to reclaim resources"
    assert for_whom in (cluster / "slurmctld.log").read_text()
    assert {job.partition for job in preempted} == {"gpu"}
    assert {job.partition for job in jobs_of("killed")} == {"cpu"}
    # The third may have been stopped before it saved anything.
    for run in ("killed", "preempted"):
        meta = json.loads((runs / run / "log.csv.meta.json").read_text())
        assert meta["resumed_from_step"] > 0, run

    local = ["--cores", "2", "--config", "experiment=cluster"]
    done = run_snakemake(*local, folder=folders["undisturbed"])
    assert done.returncode == 0, done.stderr
    found = results(folders["disturbed"])
    assert len([name for name in found if name.startswith("checkpoints/")]) == 5
    assert found == results(folders["undisturbed"])


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_a_run_spans_two_nodes(cluster: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("two_nodes", "two_devices")}
    prepare(folders["two_nodes"], TWO_NODES, nodes=2)
    prepare(folders["two_devices"], TWO_NODES, devices=2)
    ends = [f"results/cluster/checkpoints/{run}/manifest.json" for run in ("start", "rewarded")]
    # Torch's processes on both nodes, then Ray's.
    done = run_snakemake(*THROUGH_SLURM, "--", *ends, folder=folders["two_nodes"])
    assert done.returncode == 0, done.stdout + done.stderr
    for run in ("start", "rewarded"):
        assert [(job.nodes, job.state) for job in jobs_of(run)] == [(2, "COMPLETED")]

    # How the ranks are spread over nodes changes no bit.
    local = ("--cores", "2", "--config", "experiment=cluster", "--", ends[0])
    done = run_snakemake(*local, folder=folders["two_devices"])
    assert done.returncode == 0, done.stderr
    end = "results/cluster/checkpoints/start/model.safetensors"
    assert sha256(folders["two_nodes"] / end) == sha256(folders["two_devices"] / end)
