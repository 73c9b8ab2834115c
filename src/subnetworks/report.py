"""One page to read: the findings, every table and figure; as text, Markdown or one HTML file."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars

from subnetworks import figures, tables
from subnetworks.findings import Finding, read_table
from subnetworks.tables import style

SOURCE = "arXiv 2505.11711"
CONTROLS_HEADING = "What readers ask next"
_MARKS = {"yes": "✓", "unclear": "~", "no": "✗"}
_LEGEND = (
    "Appears: yes; unclear, in part of the runs or within the noise (two standard errors); no. "
    "Written from the finished tables."
)


def to_text(found: Sequence[Finding]) -> str:
    """One line a finding, for the terminal."""
    lines = [f"{_MARKS[f.appears]} {f.appears:<8}{f.claim}: {f.here}" for f in found]
    return "\n".join(lines) + "\n"


def to_markdown(results: Path, found: Sequence[Finding]) -> str:
    """The findings as a table, then the tables, then links to the figures."""
    lines = [f"# {results.name}: which of the paper's effects appear", ""]
    lines += [f"The paper: {SOURCE}. {_LEGEND}", ""]
    lines += ["| claim | appears | here | paper |", "| --- | --- | --- | --- |"]
    for finding in found:
        cells = (finding.claim, _shown(finding), finding.here, finding.paper)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", _missing(found), "", "## Tables", ""]
    lines += _markdown_sheets(results, tables.NAMES)
    lines += ["## Figures", "", *_markdown_drawings(results, figures.NAMES)]
    if asked := _markdown_sheets(results, tables.CONTROLS) + _markdown_drawings(
        results, figures.CONTROLS
    ):
        lines += [f"## {CONTROLS_HEADING}", "", *asked]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_sheets(results: Path, names: Iterable[str]) -> list[str]:
    lines = []
    for name, sheet in _sheets(results, names):
        lines += [style.to_markdown(sheet), f"Data: [tables/{name}.csv](tables/{name}.csv)", ""]
    return lines


def _markdown_drawings(results: Path, names: Iterable[str]) -> list[str]:
    lines = []
    for shown in _drawings(results, names):
        lines += [f"### {shown.title}", "", f"![{shown.alt}](figures/{shown.name}.png)", ""]
        lines += [*(f"- {words}" for words in shown.said), ""] if shown.said else []
        lines += [f"Data: [figures/{shown.name}.csv](figures/{shown.name}.csv)", ""]
    return lines


def _shown(finding: Finding) -> str:
    return f"{_MARKS[finding.appears]} {finding.appears}"


def _missing(found: Sequence[Finding]) -> str:
    """Says aloud what did not reproduce."""
    absent = [finding.claim for finding in found if finding.appears == "no"]
    doubtful = [finding.claim for finding in found if finding.appears == "unclear"]
    words = [f"Does not appear here: {'; '.join(absent) or 'nothing of the above'}."]
    if doubtful:
        words.append(f"Unclear: {'; '.join(doubtful)}.")
    return " ".join(words)


def _sheets(results: Path, names: Iterable[str]) -> list[tuple[str, style.Sheet]]:
    sheets = []
    for name in names:
        frame = read_table(results, name)
        if frame is not None:
            sheets.append((name, style.sheet_of(tables.load(name), frame)))
    return sheets


@dataclass(frozen=True)
class _Drawing:
    """A figure that is there: its title, alternative text, and what its numbers say."""

    name: str
    title: str
    alt: str
    said: list[str]


def _drawings(results: Path, names: Iterable[str]) -> list[_Drawing]:
    found = []
    for name in names:
        if (results / "figures" / f"{name}.png").exists():
            figure = figures.load(name)
            said: list[str] = []
            if hasattr(figure, "said"):
                drawn = results / "figures" / f"{name}.csv"
                said = figure.said(polars.read_csv(drawn, schema=figure.SCHEMA))
            found.append(_Drawing(name, figure.TITLE, figure.ALT, said))
    return found


_CSS = """
:root { color-scheme: light; --ink: #222; --faint: #666; --line: #ccc; --ground: #f6f6f6; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 1rem;
  max-width: 78rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th.span { border-bottom: 1px solid var(--line); text-align: center; }
th:empty { border: 0; }
th.words, td.words { text-align: left; } td.wrap { white-space: normal; min-width: 11rem; }
@media (max-width: 42rem) {
  .findings thead { display: none; }
  .findings tr, .findings td, .findings tbody { display: block; }
  .findings td { padding: 0 .2rem; } .findings td:first-child { font-weight: 600; }
  .findings td:last-child::before { content: "paper: "; color: var(--faint); }
  .findings tr { padding: .5rem 0; }
}
tr.block td { text-align: left; font-weight: 600; background: var(--ground); }
tbody tr { border-bottom: 1px solid #eee; }
.notes { font-size: .85rem; color: var(--faint); padding-left: 1.2rem; }
.yes { color: #00614a; } .no { color: #a23b00; } .unclear { color: #6b5500; }
.yes, .no, .unclear { font-weight: 600; white-space: nowrap; }
"""


def to_html(results: Path, found: Sequence[Finding]) -> str:
    """The same as one file that opens from disk without network, figures embedded."""
    escape = html.escape
    title = f"{results.name}: which of the paper's effects appear"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_CSS}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>The paper: {SOURCE}. {escape(_LEGEND)}</p>",
        '<table class="findings"><thead><tr>',
        *(f'<th class="words">{head}</th>' for head in ("claim", "appears", "here", "paper")),
        "</tr></thead><tbody>",
    ]
    for finding in found:
        parts.append(
            f'<tr><td class="words wrap">{escape(finding.claim)}</td>'
            f'<td class="words {finding.appears}">{_shown(finding)}</td>'
            f'<td class="words wrap">{escape(finding.here)}</td>'
            f'<td class="words wrap">{escape(finding.paper)}</td></tr>'
        )
    parts += ["</tbody></table>", f"<p>{escape(_missing(found))}</p>", "<h2>Tables</h2>"]
    parts += _html_sheets(results, tables.NAMES)
    parts += ["<h2>Figures</h2>", *_html_drawings(results, figures.NAMES)]
    if asked := _html_sheets(results, tables.CONTROLS) + _html_drawings(results, figures.CONTROLS):
        parts += [f"<h2>{CONTROLS_HEADING}</h2>", *asked]
    return "\n".join([*parts, "</body></html>", ""])


def _html_sheets(results: Path, names: Iterable[str]) -> list[str]:
    parts = []
    for name, sheet in _sheets(results, names):
        parts += [_html_table(sheet), f'<p><a href="tables/{name}.csv">data (CSV)</a></p>']
    return parts


def _html_drawings(results: Path, names: Iterable[str]) -> list[str]:
    escape = html.escape
    parts = []
    for shown in _drawings(results, names):
        png = results / "figures" / f"{shown.name}.png"
        picture = base64.b64encode(png.read_bytes()).decode()
        parts += [
            f"<h3>{escape(shown.title)}</h3>",
            f'<img alt="{escape(shown.alt)}" src="data:image/png;base64,{picture}">',
            *(f'<p class="said">{escape(words)}</p>' for words in shown.said),
            f'<p><a href="figures/{shown.name}.csv">data (CSV)</a> · '
            f'<a href="figures/{shown.name}.pdf">PDF</a></p>',
        ]
    return parts


def _html_table(sheet: style.Sheet) -> str:
    classes = [' class="words"' if column.is_text else "" for column in sheet.columns]
    parts = [f"<h3>{html.escape(sheet.title)}</h3>", '<div class="scroll"><table><thead>']
    if any(column.under for column in sheet.columns):
        parts.append("<tr>")
        for under, width in style.spans(sheet.columns):
            mark = ' class="span"' if under else ""
            parts.append(f'<th{mark} colspan="{width}">{html.escape(under)}</th>')
        parts.append("</tr>")
    parts.append("<tr>")
    for mark, column in zip(classes, sheet.columns, strict=True):
        parts.append(f"<th{mark}>{html.escape(column.header)}</th>")
    parts.append("</tr></thead><tbody>")
    for heading, rows in sheet.blocks:
        if heading and len(sheet.blocks) > 1:
            width = len(sheet.columns)
            parts.append(
                f'<tr class="block"><td colspan="{width}">{html.escape(heading)}</td></tr>'
            )
        for row in rows:
            cells = zip(classes, row, strict=True)
            parts.append(
                "<tr>" + "".join(f"<td{m}>{html.escape(c)}</td>" for m, c in cells) + "</tr>"
            )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes)
    return "\n".join([*parts, f'</tbody></table></div><ul class="notes">{notes}</ul>'])
