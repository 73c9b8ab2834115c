"""The report in Markdown: the same in short, pictures linked."""

from collections.abc import Iterable, Iterator, Sequence

from subnetworks.artefacts import sheet
from subnetworks.artefacts.claims import MARKS
from subnetworks.report.captions import to_plain
from subnetworks.report.contents import Artefact, Drawing, Report
from subnetworks.report.words import (
    CONTROLS_HEADING,
    HELD_OUT,
    HELD_OUT_HEADS,
    LEGEND,
    PART_HEADS,
    SOURCE,
    STAGE_HEADS,
    held_out_table,
    missing,
    parts_table,
    settings_table,
    stages_table,
    times_in_words,
)


def to_markdown(report: Report) -> str:
    """Findings, what controls leave of them, figures, tables, settings."""
    lines = [f"# {report.title}", "", f"The paper: {SOURCE}. {LEGEND}", ""]
    lines += _table(
        ("claim", "appears", "here", "paper"),
        ((f.claim, f"{MARKS[f.appears]} {f.appears}", f.here, f.paper) for f in report.found),
    )
    lines += ["", *(f"{words}\n" for words in missing(report.found))]
    if report.controlled:
        lines += ["## Under controls", ""]
        lines += _table(
            ("effect", "controlled for", "before", "after", "left", "because"),
            (
                (c.effect, c.control, c.before, c.after, c.shown, c.reading)
                for c in report.controlled
            ),
        )
        lines.append("")
    for drawn, tabled, controls in (
        ("Figures", "Tables", False),
        (f"{CONTROLS_HEADING}: figures", f"{CONTROLS_HEADING}: tables", True),
    ):
        if drawings := [d for d in report.drawings if d.is_control is controls]:
            lines += [f"## {drawn}", "", *_drawings(drawings)]
        if tables := [t for t in report.tables if t.is_control is controls]:
            lines += [f"## {tabled}", ""]
            for table in tables:
                lines += [sheet.to_markdown(table.sheet), *_below(table)]
    if report.runs:
        lines += ["## Settings of the runs", "", *_table(*settings_table(report.runs)), ""]
    if report.held_out:
        lines += ["## Rows held out", "", HELD_OUT, ""]
        lines += [*_table(HELD_OUT_HEADS, held_out_table(report.held_out)), ""]
    if report.origins.jobs:
        lines += ["## Where the time went", "", times_in_words(report.origins, report.times), ""]
        lines += [*_table(STAGE_HEADS, stages_table(report.origins)), ""]
        lines += [*_table(PART_HEADS, parts_table(report.times)), ""]
        lines += [f"On {machine} ({jobs} jobs)." for machine, jobs in report.origins.machines]
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return lines


def _drawings(drawings: Iterable[Drawing]) -> Iterator[str]:
    for drawing in drawings:
        yield from (f"### {drawing.title}", "")
        yield from (f"![{drawing.alt}](figures/{drawing.name}.png)", "")
        yield from _below(drawing)


def _below(artefact: Artefact) -> Iterator[str]:
    if artefact.caption:
        yield from (to_plain(artefact.caption), "")
    if artefact.said:
        yield from (*(f"- {sentence}" for sentence in artefact.said), "")
    links = (f"[{path.name}]({path.as_posix()})" for path in artefact.files)
    yield from (f"Data: {', '.join(links)}", "")
