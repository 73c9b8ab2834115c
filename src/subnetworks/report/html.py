"""The report as one page that opens from disk: pictures, data and style are in it."""

import base64
from pathlib import Path

import jinja2

from subnetworks.artefacts import sheet
from subnetworks.artefacts.claims import MARKS
from subnetworks.report import words
from subnetworks.report.contents import Artefact, Report

LARGEST_EMBEDDED = 64 * 1024
"""CSV files of up to so many bytes are in the page itself, for when it is sent alone."""


def to_html(report: Report) -> str:
    """Lay out `report`; nothing in it is fetched from anywhere."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    heads, rows = words.settings_table(report.runs)
    page = environment.get_template("page.html.jinja").render(
        report=report,
        css=(here / "page.css").read_text(encoding="utf-8"),
        marks=MARKS,
        words=words,
        sections=_sections(report),
        settings={"heads": heads, "rows": rows},
        packages=[
            (", ".join(verbs), ", ".join(f"{name} {version}" for name, version in found.items()))
            for verbs, found in report.origins.packages
        ],
        spans=sheet.spans,
        embedded=lambda artefact: _embedded(report.results, artefact),
        picture=lambda drawing: _base64(drawing.picture),
    )
    return page.replace(" %", "\u00a0%")  # no line begins with a unit


def _sections(report: Report) -> list[tuple[str, str, list[Artefact]]]:
    """(anchor, heading, artefacts) of those sections that hold any."""
    sections: list[tuple[str, str, list[Artefact]]] = []
    for anchor, heading, found in (
        ("figures", "Figures", report.drawings),
        ("tables", "Tables", report.tables),
    ):
        sections.append((anchor, heading, [a for a in found if not a.is_control]))
    controls = [a for a in (*report.drawings, *report.tables) if a.is_control]
    sections.append(("controls", words.CONTROLS_HEADING, controls))
    return [section for section in sections if section[2]]


def _embedded(results: Path, artefact: Artefact) -> str | None:
    """The artefact's CSV as a data URI, or None where it is too large for the page."""
    for path in (results / file for file in artefact.files if file.suffix == ".csv"):
        if path.stat().st_size <= LARGEST_EMBEDDED:
            return f"data:text/csv;base64,{_base64(path)}"
    return None


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
