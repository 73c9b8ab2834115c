"""Fills in what the code already says: a hook of mkdocs.

A line `<!-- generated: NAME -->` of a page becomes what `PARTS[NAME]` returns, in Markdown. So the
targets, the paper's numbers, the options and the command line have one home, and nothing generated
is committed.
"""

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import typer.testing

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from subnetworks import artefacts, cli, experiment  # noqa: E402
from subnetworks.artefacts.published import Published  # noqa: E402
from subnetworks.core.validation import SettingsModel  # noqa: E402
from subnetworks.experiment import savings, schemas  # noqa: E402

PUBLISHED = ROOT / "workflow" / "published"


def readme() -> str:
    """The front page, with links as seen from docs/."""
    return (ROOT / "README.md").read_text().replace("](docs/", "](")


def targets(control: bool) -> str:
    """A table of the paper's artefacts or of the controls, then what each is."""
    chosen = [found for found in artefacts.every().values() if found.is_control == control]
    lines = [_row(("target", "shows")), _row(("---", "---"))]
    for found in chosen:
        shows = found.line.partition(": ")[2]
        lines.append(_row((f"[{_code(found.name)}](#{found.name})", _capital(shows))))
    paper = Published(PUBLISHED)
    for found in chosen:
        lines += ["", f"### {found.name} {{ #{found.name} }}", "", found.captioned(paper), ""]
        lines.append(
            f"An experiment asks for it under `{found.kind}:` with {_keys(found.specification)}. "
            f"Defined in `{found.source.relative_to(ROOT)}`."
        )
    return "\n".join(lines)


def _keys(model: type[SettingsModel]) -> str:
    """The keys that a model takes, and behind a key of rows what these take, in a few words."""
    needed: list[str] = []
    optional: list[str] = []
    for key, field in model.model_fields.items():
        rows = [part for part in get_args(field.annotation) if isinstance(part, type)]
        inner = [_keys(row) for row in rows if issubclass(row, SettingsModel)]
        words = f"`{key}`" + "".join(f" (rows of {keys})" for keys in inner)
        (needed if field.is_required() else optional).append(words)
    may = f"optional {', '.join(optional)}" if optional else ""
    return "; ".join(filter(None, [", ".join(needed), may])) or "no keys"


def published() -> str:
    """The paper's numbers: every file of them with its origin, its target and its rows."""
    described = re.findall(
        r"^\| `(\w+)\.csv` \| (.*?) \| (.*?) \|$",
        (PUBLISHED / "README.md").read_text(),
        re.MULTILINE,
    )
    lines = ["", _row(("the paper's", "target that computes ours", "how the paper's was taken"))]
    lines.append(_row(("---", "---", "---")))
    for name, what, origin in described:
        target = _target_of(name)
        ours = f"[{_code(target)}](targets.md#{target})" if target else ""
        lines.append(_row((f"[{what}](#{name})", ours, origin)))
    for name, what, origin in described:
        with (PUBLISHED / f"{name}.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        title, _, shown = what.partition(": ")
        lines += ["", f"## {_capital(title)} {{ #{name} }}", ""]
        lines.append(f"{_capital(shown)}; {origin}." if shown else f"{_capital(origin)}.")
        if target := _target_of(name):
            source = artefacts.every()[target].source.relative_to(ROOT)
            lines.append(f"Ours: target [`{target}`](targets.md#{target}), computed in `{source}`.")
        lines += [f"The paper's: `workflow/published/{name}.csv`.", ""]
        if len(rows) > 60:
            lines += [f"{len(rows)} rows with the columns {', '.join(head)}: see the file."]
            continue
        lines += [_row(_spaced(head)), _row("---" for _ in head), *map(_row, rows)]
    return "\n".join(lines)


def _target_of(file: str) -> str:
    """The target that shows a published file: `table1_…` is of `table_1_…`."""
    stem = re.match(r"[a-z]+\d*", file)
    key = re.sub(r"(\d+)", r"_\1_", stem.group() if stem else file)
    return next((name for name in artefacts.every() if name.startswith(key)), "")


def synchronised() -> str:
    """What others report of weight synchronisation, with their sources."""
    with (PUBLISHED / "elsewhere" / "weight_synchronisation.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    lines = [_row(("system", "model", "changed", "patch of a whole copy", "as printed"))]
    lines.append(_row(("---", "---", "---:", "---:", "---")))
    for row in found:
        links = ", ".join(f"[{k}]({link})" for k, link in enumerate(row["source"].split(), 1))
        shares = [_range(row[f"{key}_low_pct"], row[f"{key}_high_pct"]) for key in _SHARES]
        lines.append(_row((row["system"], row["model"], *shares, f"{row['printed']} ({links})")))
    return "\n".join(lines)


_SHARES = ("changed", "patch")


def _range(low: str, high: str) -> str:
    """Two bounds of a share in per cent, of which the lower one may be missing."""
    if not high:
        return ""
    return f"< {high} %" if not low else f"{low} %" if low == high else f"{low}–{high} %"


def saved() -> str:
    """What training within a mask saves of a large model's memory, on paper."""
    heads = [*map(_capital, _PARTS), "Sum", "Saved", "Gradients in the mask's rows"]
    lines = [_row(("weights", "mask", *heads))]
    lines.append(_row(("---", "---", *["---:"] * len(heads))))
    for billions, width in ((8, 4096), (70, 8192)):
        whole = savings.parts(billions * 1e9)
        for density in (None, 0.3, 0.2, 0.05, 0.001):
            found = savings.parts(billions * 1e9, density)
            sizes = [*(getattr(found, part) for part in _PARTS), found.sum]
            cells = [_gigabytes(size) for size in sizes]
            mask, share, rows = "none", "", ""
            if density is not None:
                mask = f"{100 * density:g} % of the weights"
                share = f"{100 * (1 - found.sum / whole.sum):.0f} %"
                touched = found.gradients * savings.rows_needed(density, width)
                rows = _gigabytes(touched)
            lines.append(_row((f"{billions} billion", mask, *cells, share, rows)))
    return "\n".join(lines)


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.0f}" if number >= 1e9 or not number else f"{number / 1e9:.2f}"


_PARTS = ("weights", "gradients", "moments", "indices")


# From the paper's own size to the smallest; any other experiment stands behind them.
_SIZES = ("paper", "paper_runs", "workstation", "smollm2", "mini", "quick")


def experiments() -> str:
    """Which experiment shows which of the paper's tables and figures, by their files."""
    files = {path.stem: path for path in (ROOT / "experiments").glob("*.yaml")}
    names = sorted(files, key=lambda name: (_SIZES.index(name) if name in _SIZES else 9, name))
    loaded = [experiment.load(files[name]) for name in names]
    lines = [_row(("the paper's", *map(_code, names))), _row(["---", *[":---:"] * len(names)])]
    for found in artefacts.every().values():
        if not found.is_control:
            made = [found.name in one.named(found.kind) for one in loaded]
            link = f"[{found.label}](targets.md#{found.name})"
            lines.append(_row((link, *("✓" if there else "" for there in made))))
    return "\n".join(lines)


def options(name: str) -> str:
    """The keys of experiments, or of config.yaml: a table for every kind of entry."""
    return schemas.tables(name)


def command_line() -> str:
    """The help of every verb, as printed."""
    runner, app = typer.testing.CliRunner(), cli.load()
    lines = []
    for verb in sorted(typer.main.get_group(app).commands):
        printed = runner.invoke(app, [verb, "--help"], prog_name="subnetworks").stdout
        lines += ["", f"## {verb}", "", "```text", printed.strip(), "```"]
    return "\n".join(lines)


def _code(name: str) -> str:
    """A long name as code that may break behind each underscore."""
    return f"<code>{name.replace('_', '_<wbr>')}</code>"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spaced(head: list[str]) -> list[str]:
    return [name.replace("_", " ") for name in head]


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


PARTS: dict[str, Callable[[], str]] = {
    "readme": readme,
    "targets": lambda: targets(control=False),
    "controls": lambda: targets(control=True),
    "published": published,
    "experiments": experiments,
    "experiment": lambda: options("experiment"),
    "configuration": lambda: options("config"),
    "command line": command_line,
    "weight synchronisation": synchronised,
    "savings": saved,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the generated parts of a page (called by mkdocs)."""
    return re.sub(
        r"^<!-- generated: (.+) -->$", lambda m: PARTS[m[1]](), markdown, flags=re.MULTILINE
    )
