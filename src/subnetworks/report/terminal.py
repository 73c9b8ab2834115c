"""The findings for the terminal: a line each, or the gist in ten lines of at most 100 columns."""

import textwrap
from collections.abc import Sequence

from subnetworks.artefacts.claims import MARKS, Claim
from subnetworks.report.contents import Report
from subnetworks.report.origins import Origins
from subnetworks.report.times import Times, largest
from subnetworks.report.words import (
    PART_HEADS,
    STAGE_HEADS,
    duration,
    parts_table,
    stages_table,
    times_in_words,
)

LINES, COLUMNS = 10, 100


def to_text(found: Sequence[Claim]) -> str:
    """One line per finding, at full length."""
    lines = [f"{MARKS[f.appears]} {f.appears:<8}{f.claim}: {f.here}" for f in found]
    return "\n".join(lines) + "\n"


def to_terminal(report: Report) -> str:
    """How many effects appear, those with a brief, and which shrink under controls."""
    counted = ", ".join(
        f"{MARKS[verdict]} {report.count(verdict)} {words}"
        for verdict, words in (("yes", "appear"), ("unclear", "unclear"), ("no", "do not"))
    )
    head = f"{report.results.name}: of {len(report.found)} effects {counted}"
    lines = [f"{head} (in brackets: the paper's)"]
    shrunk = [c.effect for c in report.controlled if c.is_less]
    room = LINES - 1 - bool(shrunk)
    lines += [f"{MARKS[f.appears]} {f.brief}" for f in report.found if f.brief][:room]
    if shrunk:
        rest = len(report.controlled) - len(shrunk)
        lines.append(
            f"! under controls {len(shrunk)} effects shrink, {rest} do not: see the report"
        )
    return "\n".join(textwrap.shorten(line, COLUMNS, placeholder=" …") for line in lines) + "\n"


def times_to_text(origins: Origins, times: Times, brief: bool = False) -> str:
    """Where the time went: in two lines, or by stage and by part."""
    if not origins.jobs:
        return "no records (.meta.json) lie beside the results\n"
    machines = [machine for machine, _ in origins.machines]
    if brief:
        shares = ", ".join(f"{part} {share:.0%}" for part, share in largest(times))
        spent = f"{duration(times.seconds)} of work in {duration(times.working)}"
        return "\n".join([f"{origins.jobs} jobs, {spent}: {shares}", *machines]) + "\n"
    return "\n".join(
        [
            *machines,
            "",
            *textwrap.wrap(times_in_words(origins, times), COLUMNS),
            "",
            *_columns(STAGE_HEADS, stages_table(origins)),
            "",
            *_columns(PART_HEADS, parts_table(times)),
            "",
        ]
    )


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as text, in columns as wide as need be."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
