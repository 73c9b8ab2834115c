"""One new file is a new control: it is listed, planned, built and reported."""

import hashlib
import re
from pathlib import Path

import pytest
from running import ROOT, copy_checkout, planned, run_snakemake

CONTROL = '''"""Control: how many weights each update is of, which nobody had asked yet."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from subnetworks.artefacts.base import Specification, Table, UpdateShown
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.sheet import Column, text
from subnetworks.core.results import Context


class Shown(Specification):
    """What is shown."""

    updates: list[UpdateShown] = Field(default=[])
    told: str


def build(context: Context) -> polars.DataFrame:
    rows: list[dict[str, Any]] = [{"source": "here", "label": context.spec["told"], "n": 1234}]
    return polars.DataFrame(rows, schema=ARTEFACT.types)


ARTEFACT = Table(
    __name__,
    title="Sizes",
    caption="**Sizes.** Counted by *hand*.",
    specification=Shown,
    schema={"source": str, "label": str, "n": int},
    columns=(text("label", "update"), Column("n", "weights")),
    notes=("Nothing more.",),
    rows=build,
    said=lambda frame: [f"There are {frame['n'][0]} weights."],
)
'''
MEASURED = """
checkpoints:
  start: { make: base }
controls:
  updates:
    none: { before: start, after: start }
  tables:
    control_size: { told: "{braces}", updates: [{ update: none }] }
"""
# Of a checkpoint that is there, so that all it asks for is made at once.
SAID = """
checkpoints:
  start: { path: start }
controls:
  tables:
    control_size: { told: "{braces}" }
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one file more, and two experiments that ask for what it shows."""
    folder = tmp_path_factory.mktemp("new") / "checkout"
    copy_checkout(folder)
    (folder / "src" / "subnetworks" / "artefacts" / "control_size.py").write_text(CONTROL)
    start = folder / "start"
    start.mkdir()
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (start / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    (start / "config.json").write_text("{}")
    for name, text in (("measured", MEASURED), ("said", SAID)):
        (folder / "experiments" / f"{name}.yaml").write_text(text)
    return folder


def test_it_is_listed_with_its_first_line_and_has_a_caption(checkout: Path) -> None:
    listed = run_snakemake("--list-target-rules", folder=checkout).stdout
    line = "Control: how many weights each update is of, which nobody had asked yet."
    assert re.search(rf"^control_size \({re.escape(line)}\)$", listed, re.MULTILINE)
    caption = checkout / ".snakemake" / "captions" / "control_size.rst"
    assert caption.read_text() == "**Sizes.** Counted by *hand*."


def test_it_is_planned_with_what_it_reads_and_the_report_behind_it(checkout: Path) -> None:
    config = ("--config", "experiment=measured")
    jobs = planned(run_snakemake("-n", "--cores", "1", "control_size", *config, folder=checkout))
    assert (jobs["control_size"], jobs["measure"], jobs["make_base"]) == (1, 1, 1)
    jobs = planned(run_snakemake("-n", "--cores", "1", "controls", *config, folder=checkout))
    assert {"control_size", "report", "controls"} <= jobs.keys()


def test_it_is_built_and_reported(checkout: Path) -> None:
    pins = hashlib.sha256((ROOT / "envs" / "locks" / "figures.txt").read_bytes()).hexdigest()
    if not (ROOT / ".venvs" / "figures" / f".complete-{pins[:12]}").exists():
        pytest.skip("the environment figures is not built from these pins")
    run = ("--cores", "1", "--config", "experiment=said", "--")
    done = run_snakemake(*run, "control_size", folder=checkout)
    assert done.returncode == 0, done.stderr
    results = checkout / "results" / "said"
    assert (results / "tables" / "control_size.csv").read_text().splitlines() == [
        "source,label,n",
        "here,{braces},1234",
    ]
    done = run_snakemake("--report", "workflow.html", *run, "control_size", folder=checkout)
    assert done.returncode == 0, done.stderr
    assert "<em>hand</em>" in (checkout / "workflow.html").read_text().replace("\\u003c", "<")
    done = run_snakemake(*run, "controls", folder=checkout)
    assert done.returncode == 0, done.stderr
    page = (results / "report.md").read_text()
    for words in (
        "### Sizes",
        "Sizes. Counted by hand.",
        "There are 1234 weights.",
        "Nothing more",
    ):
        assert words in page


def test_what_it_may_not_be_told_is_refused_when_it_is_planned(checkout: Path) -> None:
    path = checkout / "experiments" / "said.yaml"
    kept = path.read_text()
    path.write_text(kept.replace("told:", "tolt:"))
    done = run_snakemake("-n", "--cores", "1", "--config", "experiment=said", folder=checkout)
    path.write_text(kept)
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "tables.control_size: unknown key 'tolt' (did you mean 'told'?)" in printed
    assert "Traceback" not in printed
