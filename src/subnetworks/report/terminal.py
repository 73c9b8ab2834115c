"""The findings for the terminal: a line each, or the gist in ten lines of at most 100 columns."""

import textwrap
from collections.abc import Sequence

from subnetworks.findings import MARKS, Finding
from subnetworks.report.contents import Report

LINES, COLUMNS = 10, 100


def to_text(found: Sequence[Finding]) -> str:
    """One line a finding, at full length."""
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
    shrunk = [c.effect for c in report.controlled if c.verdict != "stays"]
    room = LINES - 1 - bool(shrunk)
    lines += [f"{MARKS[f.appears]} {f.brief}" for f in report.found if f.brief][:room]
    if shrunk:
        rest = len(report.controlled) - len(shrunk)
        lines.append(
            f"! under controls {len(shrunk)} effects shrink, {rest} do not: see the report"
        )
    return "\n".join(textwrap.shorten(line, COLUMNS, placeholder=" …") for line in lines) + "\n"
