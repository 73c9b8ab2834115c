"""The verbs `table`, `figure` and `report` as a rule calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("polars")
pytest.importorskip("matplotlib")

from subnetworks.cli.figure import figure
from subnetworks.cli.table import table

ROOT = Path(__file__).resolve().parents[3]


def subnetworks(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "subnetworks", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def artefact(made_up, results, folder, verb, name):
    spec = json.dumps(made_up.SPECS[name])
    options = ("--spec", spec, "--results", results, "--output-folder", folder)
    return subnetworks(verb, name, *options)


def test_table_writes_its_files_and_touches_no_input(made_up, results, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*")}
    name = "table_4_overlap"
    done = artefact(made_up, results, tmp_path, "table", name)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{name}{suffix}" for suffix in (".csv", ".md", ".tex", ".csv.meta.json")
    }
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*")} == before


def test_errors_are_one_line_and_status_2(made_up, tmp_path):
    done = artefact(made_up, tmp_path, tmp_path / "out", "table", "table_1_update_sparsity")
    assert done.returncode == 2
    assert "updates/sft.json: no such file; rule 'measure' makes it" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.csv"))
    done = subnetworks(
        "figure", "figure_99", "--spec", "{}", "--results", tmp_path, "--output-folder", tmp_path
    )
    assert done.returncode == 2
    assert "figure_1_sft_vs_rl" in done.stderr


def test_report_says_what_the_tables_say(made_up, tmp_path):
    results = made_up.make(tmp_path / "mini")
    for name, spec in made_up.SPECS.items():
        verb = figure if name.startswith("figure") else table
        folder = results / ("figures" if verb is figure else "tables")
        verb(name, json.dumps(spec), results, folder, ROOT / "workflow" / "published")
    outputs = results / "report.md", results / "report.html"
    options = [part for path in outputs for part in ("--output", path)]
    done = subnetworks("report", "--results", results, "--text", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert 8 <= len(lines) <= 24
    markdown, page = (path.read_text() for path in outputs)
    for number in ("92.5 against 73.0 %", "GRPO 0 moved, DPO 0 moved"):
        assert number in done.stdout
        assert number in markdown
        assert number.replace(" %", "\u00a0%") in page
    assert "figures/figure_1_sft_vs_rl.png" in markdown
    assert "Sparsity of updates by data that are likely" in markdown
    brief = subnetworks("report", "--results", results, "--brief")
    assert brief.returncode == 0, brief.stderr
    assert len(brief.stdout.splitlines()) <= 10


def test_report_without_tables_says_so(tmp_path):
    done = subnetworks("report", "--results", tmp_path)
    assert done.returncode == 2
    assert "no table there" in done.stderr
