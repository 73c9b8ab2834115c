"""The pages' commands on checkpoints, run as a reader would, print what the pages show."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks, commands

pytest.importorskip("torch")
pytest.importorskip("numba")
pytest.importorskip("typer")

from subnetworks import cli

START = ROOT / "docs" / "getting-started.md"
PAGES = [START, ROOT / "docs" / "own-checkpoints.md", ROOT / "README.md"]
# What a reader fills in.
NAMES = {
    "BEFORE": "before.safetensors",
    "AFTER": "after1.safetensors",
    "SOURCE": "before.safetensors",
    "FOLDER": "converted",
}
# These need a finished experiment.
ELSEWHERE = {"times"}


def steady(text: str) -> str:
    """Without what depends on the machine."""
    return re.sub(r"\d+\.\d+ GB in .*", "GB in time", text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints that the first page makes."""
    folder = tmp_path_factory.mktemp("made")
    (script,) = blocks(START, "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(script, {})
    return folder


def run(
    words: list[str], capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> tuple[object, str]:
    """Exit status and all output of `subnetworks WORDS`."""
    patch.setattr(sys, "argv", ["subnetworks", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capture.readouterr()
    return ended.value.code, printed.out + printed.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_print_what_is_shown(
    page: Path,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in made.iterdir():
        shutil.copy(file, tmp_path)
    if page != START:  # a page builds on what the first one made
        for k in (1, 2):
            update = ("before.safetensors", f"after{k}.safetensors")
            status, _ = run(
                ["measure", *update, "--mask", f"mask{k}.safetensors"], capsys, monkeypatch
            )
            assert status == 0
        os.link("mask2.safetensors", "other.safetensors")
    ran = 0
    for words, expected in commands(page):
        if "subnetworks" not in words or ELSEWHERE & set(words):
            continue
        words = words[words.index("subnetworks") + 1 :]
        status, printed = run([NAMES.get(word, word) for word in words], capsys, monkeypatch)
        assert status == (2 if expected.startswith("subnetworks: error: ") else 0), printed
        if expected:
            assert steady(printed) == steady(expected), words
        ran += 1
    assert ran >= 4
