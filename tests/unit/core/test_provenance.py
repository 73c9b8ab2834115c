"""What is recorded beside a result."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import subnetworks
from subnetworks.core.environment import built_by
from subnetworks.core.provenance import recorded

ROOT = Path(__file__).parents[3]


def test_a_record_tells_the_machine_and_how_long_and_how_much(tmp_path):
    with recorded(tmp_path / "result.json", seed=3) as facts:
        (tmp_path / "result.json").write_text("{}")
        facts["more"] = "words"
    record = json.loads((tmp_path / "result.json.meta.json").read_text())
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["machine"]["memory_bytes"] > record["peak_memory_bytes"]["self"] > 0
    assert record["wall_time_s"] >= 0
    assert (record["seed"], record["more"]) == (3, "words")


def test_a_record_names_the_environment_and_its_lock(tmp_path, monkeypatch):
    def environment():
        with recorded(tmp_path / "result.json"):
            (tmp_path / "result.json").write_text("{}")
        return json.loads((tmp_path / "result.json.meta.json").read_text())["environment"]

    monkeypatch.delenv("SUBNETWORKS_STAGE", raising=False)
    assert environment() == {"built_by": built_by()}
    monkeypatch.setenv("SUBNETWORKS_STAGE", "measure")
    lock = ROOT / "envs" / "locks" / "measure.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    assert environment() == {"built_by": built_by(), "name": "measure", "lock_sha256": digest}


def test_a_failed_block_leaves_no_record(tmp_path):
    try:
        with recorded(tmp_path / "result.json"):
            raise ValueError
    except ValueError:
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_record_of_a_process_tells_how_long_it_had_run(tmp_path):
    code = """
import sys, time
from subnetworks.core.provenance import recorded
time.sleep(0.4)
with recorded(sys.argv[1]):
    with recorded(sys.argv[2]):
        open(sys.argv[1], "w").close(), open(sys.argv[2], "w").close()
"""
    source = str(Path(subnetworks.__file__).parents[1])
    files = [str(tmp_path / name) for name in ("outer", "inner")]
    command = [sys.executable, "-c", code, *files]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": source})
    outer, inner = (json.loads(Path(f"{file}.meta.json").read_text()) for file in files)
    assert 0.4 <= outer["seconds_before"] < 600
    assert "seconds_before" not in inner
