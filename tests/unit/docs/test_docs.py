"""What README.md and docs/ show: commands that exist, links that lead somewhere, and all parts."""

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytest.importorskip("typer", reason="the command line needs typer")
from pages import PAGES, ROOT, commands

from subnetworks import artefacts, cli


@cache
def verbs() -> dict[str, Any]:
    import typer

    return typer.main.get_group(cli.load()).commands


@cache
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def wrong_with(command: list[str]) -> str | None:
    """What a command names that does not exist, or None."""
    if command[:3] == ["python", "-m", "subnetworks"]:
        command = command[2:]
    if command[0] == "subnetworks":
        verb = verbs().get(command[1])
        if verb is None:
            return f"verb {command[1]}"
        known = {option for given in verb.params for option in given.opts}
        return next((w for w in command[2:] if w.startswith("--") and w not in known), None)
    if command[0] == "make":
        rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((word for word in command[1:] if word not in rules), None)
    if command[0] == "snakemake":
        rules = {*artefacts.every(), "controls", "lock"}
        words = iter(command[1:])
        for word in words:
            if word in {"--cores", "--config", "--workflow-profile", "--report"}:
                value = next(words)
                name = value.removeprefix("experiment=")
                if name != value and name != "mine":
                    assert (ROOT / "experiments" / f"{name}.yaml").exists()
            elif not word.startswith("-") and word not in rules:
                return word
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path) -> None:
    assert not [(command, wrong) for command, _ in commands(page) if (wrong := wrong_with(command))]


def test_a_command_that_does_not_exist_is_found() -> None:
    wrong = ["subnetworks mesure a b", "subnetworks measure a b --maks c", "make tst"]
    wrong.append("snakemake table_9 --cores 2")
    assert [wrong_with(command.split()) for command in wrong] == [
        "verb mesure",
        "--maks",
        "tst",
        "table_9",
    ]


def test_the_page_of_the_command_line_lists_every_verb() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert sorted(re.findall(r"\[`([a-z-]+)`\]\(#\1\)", page)) == sorted(verbs())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    roots = "(?:src|tests|envs|workflow|experiments|profiles|docs)/"
    named = re.findall(rf"`({roots}[\w/.-]+)`", page.read_text())
    made = {"experiments/mine.yaml", "experiments/paper.lock"}
    assert not [name for name in named if name not in made and not (ROOT / name).exists()]


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_generated_parts_have_every_target_verb_and_number() -> None:
    parts = {name: part() for name, part in generate().PARTS.items()}
    for verb in verbs():
        assert f"\n## {verb}\n" in parts["command line"]
        assert f"subnetworks {verb} [OPTIONS]" in parts["command line"]
    for name, artefact in artefacts.every().items():
        assert f"### {name} " in parts["controls" if artefact.is_control else "targets"]
    rows = "`families` (rows of `family`, `sft`, `rl`; optional `algorithm`, `published`)"
    assert f"under `figures:` with {rows}." in parts["targets"]
    for file in (ROOT / "workflow" / "published").glob("*.csv"):
        assert f"(#{file.stem})" in parts["published"]
    assert "| 81.4 |" in parts["published"]


def test_the_experiments_that_show_a_table_are_marked() -> None:
    head, _, *rows = generate().PARTS["experiments"]().splitlines()
    names = re.findall(r"<code>(.+?)</code>", head.replace("<wbr>", ""))
    assert names[:2] == ["paper", "paper_runs"]
    assert set(names) == {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    shown = {}
    for row in rows:
        first, *marks = row.strip("| ").split(" | ")
        marks += [""] * (len(names) - len(marks))  # what strip took off
        shown[re.search(r"#(\w+)", first)[1]] = [
            n for n, m in zip(names, marks, strict=True) if m.strip()
        ]
    assert set(shown) == {n for n, a in artefacts.every().items() if not a.is_control}

    def asks(experiment: str, kind: str, name: str) -> bool:
        file = yaml.safe_load((ROOT / "experiments" / f"{experiment}.yaml").read_text())
        inherits = "like" in file and asks(file["like"], kind, name)
        return name in file.get(kind, {}) or inherits

    for name, marked in shown.items():
        kind = artefacts.every()[name].kind
        assert marked == [one for one in names if asks(one, kind, name)], name


def test_every_key_of_an_experiment_is_listed() -> None:
    listed = generate().PARTS["experiment"]()
    for key in "checkpoints runs masks learning_rate trajectory_every samples".split():
        assert f"| `{key}`" in listed


def test_pages_have_no_generated_part_that_is_unknown() -> None:
    named = {n for page in PAGES for n in re.findall(r"<!-- generated: (.+) -->", page.read_text())}
    assert named == set(generate().PARTS)
