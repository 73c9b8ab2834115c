"""An experiment on the Hub's checkpoints, run by Snakemake against a Hub on loopback."""

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import Hub
from running import ROOT, planned, run_snakemake

EXPERIMENT = """
checkpoints:
  before: { hub: owner/base }
  after: { hub: owner/tuned }
  again: { hub: owner/again }
updates:
  change: { before: before, after: after }
  other: { before: before, after: again }
"""
CHANGE = "results/hub/updates/change.json"
OTHER = "results/hub/updates/other.json"
TOKEN = "hf_SecretSecretSecretSecret"
# Read by Python as it starts.
WATCH = """
import os, sys

os.write(2, b"watching\\n")

def watch(event, arguments):
    if event == "open" and "results/hub/" in str(arguments[0]):
        os.write(2, f"reads {arguments[0]}\\n".encode())

sys.addaudithook(watch)
"""


def model(last: int) -> dict[str, bytes]:
    entry = {"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}
    text = json.dumps(entry).encode()
    body = struct.pack("<Q", len(text)) + text + bytes([0, 63, 0, 63, 0, 63, last, 63])
    return {"model.safetensors": body, "config.json": b"{}"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.commit("owner/base", model(0))
        running.commit("owner/tuned", model(64))
        running.commit("owner/again", model(128))
        running.gated.add("owner/tuned")
        running.tokens.add(TOKEN)
        yield running


@pytest.fixture
def place(copy: Path) -> Path:
    """A checkout with results of its own and this experiment."""
    (copy / "results").unlink(missing_ok=True)
    shutil.rmtree(copy / "results", ignore_errors=True)
    (copy / "results").mkdir()
    (copy / "experiments" / "hub.yaml").write_text(EXPERIMENT)
    return copy


def snakemake(
    hub: Hub, place: Path, *arguments: str, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    variables = hub.environment(place / "home") | ({"HF_TOKEN": token} if token else {})
    variables["PYTHONPATH"] = str(place / "watch")
    return run_snakemake(
        *arguments, "--cores", "2", "--config", "experiment=hub", folder=place, variables=variables
    )


def test_from_the_first_question_to_a_locked_result(hub: Hub, place: Path) -> None:
    # Without a token, everything gated is told at once and nothing has come.
    done = snakemake(hub, place, "lock", token=None)
    assert done.returncode != 0
    assert "checkpoints.after: hub:owner/tuned@main: gated" in done.stdout + done.stderr
    # What is fetched before it is locked is locked by that, two jobs at a time.
    done = snakemake(hub, place, CHANGE, OTHER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any("/resolve/" in path for _, path, _ in hub.requests[:1])
    lock = place / "experiments" / "hub.lock"
    first = json.loads(lock.read_text())
    assert set(first["sources"]) == {f"model owner/{x}@main" for x in ("base", "tuned", "again")}
    meta = json.loads((place / f"{CHANGE}.meta.json").read_text())
    assert meta["experiment"]["name"] == "hub"
    assert len(meta["experiment"]["lock_sha256"]) == len(meta["experiment"]["sha256"]) == 64
    # Neither that nor locking what is locked plans anything anew, nor are results read to see it.
    (place / "watch").mkdir()
    (place / "watch" / "sitecustomize.py").write_text(WATCH)
    done = snakemake(hub, place, "-n", CHANGE, OTHER)
    assert planned(done) == {}
    assert "watching\n" in done.stderr and "reads " not in done.stderr
    shutil.rmtree(place / "watch")
    done = snakemake(hub, place, "lock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(lock.read_text()) == first
    assert planned(snakemake(hub, place, "-n", CHANGE, OTHER)) == {}
    # A branch that moves is not followed, not even when all must be fetched again …
    hub.commit("owner/tuned", model(192))
    shutil.rmtree(place / "results" / "hub")
    hub.requests.clear()
    assert snakemake(hub, place, CHANGE, token=None).returncode == 0
    assert hub.requests == []
    # … until it is locked anew; then what depends on it, and nothing else, is made again.
    assert snakemake(hub, place, OTHER).returncode == 0
    assert snakemake(hub, place, "lock").returncode == 0
    jobs = planned(snakemake(hub, place, "-n", CHANGE, OTHER))
    assert jobs == {"fetch_checkpoint": 1, "measure": 1}
    assert snakemake(hub, place, CHANGE, OTHER).returncode == 0
    assert planned(snakemake(hub, place, "-n", CHANGE, OTHER)) == {}
    for path in place.rglob("*"):
        if path.is_file() and not path.is_relative_to(place / ".venvs"):
            assert TOKEN.encode() not in path.read_bytes(), path


def test_locks_of_shipped_experiments_are_sound() -> None:
    import sys

    sys.path.insert(0, str(ROOT / "src"))
    from subnetworks.checkpoints.hub import locks

    for path in (ROOT / "experiments").glob("*.lock"):
        assert locks.read(path)
