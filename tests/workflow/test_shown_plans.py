"""The pages' commands of Snakemake plan what they say."""

import shlex
import shutil
from pathlib import Path

import pytest
from pages import PAGES, commands
from running import run_snakemake

COMMANDS = (words for page in PAGES for words, _ in commands(page))
SHOWN = {shlex.join(words[1:]) for words in COMMANDS if words[0] == "snakemake"}


@pytest.mark.parametrize("shown", sorted(SHOWN))
def test_a_shown_command_can_be_planned(copy: Path, shown: str) -> None:
    shutil.copy(copy / "experiments" / "quick.yaml", copy / "experiments" / "mine.yaml")
    done = run_snakemake("-n", *shlex.split(shown), folder=copy)
    assert done.returncode == 0, done.stdout + done.stderr
