"""What is recorded beside a result."""

import json
import os

from subnetworks.provenance import recorded


def test_a_record_tells_the_machine_and_how_long_and_how_much(tmp_path):
    with recorded(tmp_path / "result.json", seed=3) as facts:
        (tmp_path / "result.json").write_text("{}")
        facts["more"] = "words"
    record = json.loads((tmp_path / "result.json.meta.json").read_text())
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["machine"]["memory_bytes"] > record["peak_memory_bytes"]["self"] > 0
    assert record["wall_time_s"] >= 0
    assert (record["seed"], record["more"]) == (3, "words")


def test_a_failed_block_leaves_no_record(tmp_path):
    try:
        with recorded(tmp_path / "result.json"):
            raise ValueError
    except ValueError:
        pass
    assert not list(tmp_path.iterdir())
