"""A call that is killed just before anything takes its name can be run again as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

SOURCE = Path(__file__).resolve().parents[3] / "src"
# Runs the command line, and dies like a killed process before the k-th renaming.
KILLED = """
import os, sys
import subnetworks.core.files
last, count = int(sys.argv.pop(1)), 0
def dying(rename):
    def renamed(*places):
        global count
        count += 1
        if count == last:
            os._exit(9)
        return rename(*places)
    return renamed
os.replace, os.rename = dying(os.replace), dying(os.rename)
from subnetworks.cli import main
main()
"""
CALLS = {
    "measure": (
        "base tuned --json o/m.json --table o/m.parquet --mask o/m.safetensors",
        ("o/m.json", "o/m.parquet", "o/m.safetensors"),
    ),
    "apply": ("base d.safetensors --output o/applied", ("o/applied/manifest.json",)),
    "fetch": ("base --output o/linked", ("o/linked/manifest.json",)),
}


def run(folder, *arguments, kill=0):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(kill), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )


def checkpoint(folder, bits):
    entry = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}
    text = json.dumps({"model.layers.0.self_attn.q_proj.weight": entry}).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + bits.tobytes()
    )
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("taken_away", [False, True], ids=["alone", "in a workflow"])
@pytest.mark.parametrize("verb", CALLS)
def test_a_killed_call_can_be_run_again(verb, taken_away, tmp_path):
    bits = np.arange(16, dtype="<u2").reshape(4, 4) + 15000
    checkpoint(tmp_path / "base", bits)
    checkpoint(tmp_path / "tuned", bits + (bits % 3 == 0))
    assert not run(tmp_path, *"delta base tuned --output d.safetensors".split()).returncode
    line, results = CALLS[verb]
    for point in range(1, 30):
        # Over the results of the last round, so that both old and new ones are in the way.
        killed = run(tmp_path, verb, *line.split(), kill=point)
        if not killed.returncode:
            break
        assert killed.returncode == 9, killed.stderr
        if taken_away:  # as Snakemake takes away what is to be made again
            for result in results:
                (tmp_path / result).unlink(missing_ok=True)
        again = run(tmp_path, verb, *line.split())
        assert not again.returncode, (point, again.stderr)
        assert all((tmp_path / result).exists() for result in results)
    assert point > 4
