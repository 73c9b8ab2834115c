"""One new file is a new source of masks: an experiment may name it, it is planned, and made."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from running import ROOT, copy_checkout, planned, run_snakemake

np = pytest.importorskip("numpy")

SOURCE = '''"""The entries of largest magnitude in each tensor, without the very largest."""

from typing import ClassVar

from pydantic import Field

from subnetworks.core.validation import Count
from subnetworks.measuring.mask_making import ByWeights, Chosen, Request


class ButFirst(ByWeights):
    """Entries by their magnitude, from the top."""

    skipped: Count = Field(description="How many of the largest are left out.")


class Largest(Chosen):
    """The entries of largest magnitude, but the first few."""

    memory: ClassVar[int] = 1234
    options: ClassVar[tuple[str, ...]] = ("like", "density", "skipped")

    largest: ButFirst


SETTINGS = Largest


def make(request: Request) -> int:
    import numpy as np

    from subnetworks.checkpoints.numbers import decode
    from subnetworks.measuring import selections

    share = selections.Share.of_request(request)
    skipped = request.options["skipped"]

    def choose(tensor):
        order = np.argsort(-np.abs(decode(tensor.raw(), tensor.dtype).reshape(-1)), kind="stable")
        chosen = np.zeros(tensor.n, np.bool_)
        chosen[order[skipped : skipped + share.of(tensor.name, tensor.n)]] = True
        yield chosen

    return selections.write(
        request.sources[0], request.output, share, "largest", choose, request.different_bases,
        skipped=str(skipped),
    )
'''
EXPERIMENT = """
checkpoints:
  start: { make: base }
datasets:
  demonstrations: { make: demonstrations }
masks:
  top: { largest: { checkpoint: start, density: 0.25, skipped: %s } }
  rest: { complement: top }
runs:
  within:
    algorithm: sft
    init: start
    data: demonstrations
    steps: 2
    learning_rate: 1.0e-4
    mask: top
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one file more, and an experiment that names the new source."""
    folder = tmp_path_factory.mktemp("new") / "checkout"
    copy_checkout(folder)
    sources = folder / "src" / "subnetworks" / "measuring" / "mask_sources"
    (sources / "largest.py").write_text(SOURCE)
    (folder / "experiments" / "chosen.yaml").write_text(EXPERIMENT % 2)
    return folder


def python(checkout: Path, environment: str, *arguments: str) -> str:
    """What Python prints with that checkout's code."""
    done = subprocess.run(
        [str(ROOT / ".venvs" / environment / "bin" / "python"), *arguments],
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONNOUSERSITE": "1"},
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_schema_and_the_table_of_options_have_it(checkout: Path) -> None:
    code = "import json; from subnetworks.experiment import schemas as s; "
    schema = json.loads(
        python(checkout, "snakemake", "-c", f"{code}print(json.dumps(s.schema('experiment')))")
    )
    assert schema["$defs"]["ButFirst"]["required"] == ["checkpoint", "skipped"]
    printed = python(checkout, "snakemake", "-c", f"{code}print(s.tables('experiment'))")
    assert "| `skipped` | whole number ≥ 0 | needed | How many of the largest are left" in printed


def test_it_is_planned_and_what_it_may_not_be_told_is_refused(checkout: Path) -> None:
    config = ("-n", "-p", "--cores", "1", "--config", "experiment=chosen")
    done = run_snakemake(*config, folder=checkout)
    jobs = planned(done)
    assert (jobs["derive_mask"], jobs["train"]) == (1, 1)  # nothing asks for the other
    folder = "results/chosen/checkpoints/start"
    assert f"mask largest {folder} --density 0.25 --set skipped=2 --output" in done.stdout
    assert "1234 MB" in done.stdout
    path = checkout / "experiments" / "chosen.yaml"
    path.write_text(EXPERIMENT % -1)
    done = run_snakemake(*config, folder=checkout)
    path.write_text(EXPERIMENT % 2)
    assert done.returncode != 0
    line = "chosen.yaml:7: masks.top.largest.skipped: must be at least 0, got -1"
    assert line in done.stdout + done.stderr


def test_the_command_line_makes_it(checkout: Path) -> None:
    if not (ROOT / ".venvs" / "measure" / "bin" / "python").exists():
        pytest.skip("the environment measure is not built")
    make = """
import numpy as np
from safetensors.numpy import save_file
values = np.arange(40, dtype=np.float32).reshape(4, 10)
save_file({"model.layers.0.mlp.up_proj.weight": values}, "weights.safetensors")
"""
    python(checkout, "measure", "-c", make)
    words = ("mask", "largest", "weights.safetensors", "--density", "0.25", "--output", "top.mask")
    printed = python(checkout, "measure", "-m", "subnetworks", *words, "--set", "skipped=3")
    assert "10 of 40 entries set" in printed
    bits = np.unpackbits(np.frombuffer((checkout / "top.mask").read_bytes()[-5:], np.uint8))
    found = np.flatnonzero(bits.reshape(5, 8)[:, ::-1].reshape(-1))
    assert found.tolist() == list(range(27, 37))
    record = json.loads((checkout / "top.mask.meta.json").read_text())
    assert record["settings"]["skipped"] == 3
    assert "largest" in python(checkout, "measure", "-m", "subnetworks", "mask", "--help")
