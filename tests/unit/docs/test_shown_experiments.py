"""What README.md and docs/ show of experiments can be read as experiments."""

import shutil
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, blocks

pytest.importorskip("pydantic")

from subnetworks import experiment

SECTIONS = {"checkpoints", "datasets", "runs", "masks"}
# Those that leave something out (…) are no YAML that anyone could use.
SHOWN = [
    (page.stem, k, block)
    for page in PAGES
    for k, block in enumerate(blocks(page, "yaml"))
    if "…" not in block and SECTIONS & yaml.safe_load(block).keys()
]


@pytest.mark.parametrize("block", [pytest.param(b, id=f"{page}-{k}") for page, k, b in SHOWN])
def test_a_shown_experiment_or_a_part_of_one_is_read(tmp_path: Path, block: str) -> None:
    if "checkpoints:" not in block:  # it goes on from one that is there
        shutil.copy(ROOT / "experiments" / "mini.yaml", tmp_path)
        block += "like: mini\n"
    (tmp_path / "mine.yaml").write_text(block)
    shown = yaml.safe_load(block)
    found = experiment.load(tmp_path / "mine.yaml")
    for section in SECTIONS & shown.keys():
        assert shown[section].keys() <= getattr(found, section).keys()


def test_there_are_some() -> None:
    assert {page for page, _, _ in SHOWN} >= {"own-checkpoints", "experiments", "training"}
