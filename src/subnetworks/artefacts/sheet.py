"""How every table looks: one description of its columns, written as CSV, Markdown and LaTeX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from subnetworks.artefacts.lazy import polars
from subnetworks.core.files import write_text
from subnetworks.core.results import by_hand

BLANK = "–"
GROUPS = {
    "here": "This experiment",
    "paper": "The paper, as printed",
    "elsewhere": "Reported elsewhere",
}
"""Titles of the blocks of rows, by the value of the column `source`."""


@dataclass(frozen=True)
class Column:
    """One shown column.

    Attributes:
        key: the column of the frame.
        header: its heading; `under` is a heading shared with its neighbours.
        digits: decimals of a float.
        error: a column with the standard error, shown behind ±.
        upper: a column with the upper end, shown as `low–high` where the two differ, or as
            `low to high` if signed.
        signed: whether positive numbers carry a plus sign.
        general: whether a number of any magnitude is shown with the digits it has.
        bounded: whether a positive number too small for its digits is shown as below the least.
    """

    key: str
    header: str
    under: str = ""
    digits: int = 1
    error: str | None = None
    upper: str | None = None
    signed: bool = False
    general: bool = False
    bounded: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the column holds words."""
        return self.digits < 0

    @property
    def may_vary(self) -> bool:
        """Whether its mean over seeds has an interval: it is no end of one, and no p value."""
        return not (self.is_text or self.upper or self.bounded)

    def show(self, row: dict[str, Any]) -> str:
        """The cell of this column in `row`.

        Over several seeds, keys such as `sparsity_pct:low` and `sparsity_pct:high` hold the ends of
        its interval, shown instead of an error within one training.
        """
        value = row.get(self.key)
        if value is None:
            return BLANK
        shown = self._number(value)
        if row.get(f"{self.key}:low") is not None:
            ends = [float(row[f"{self.key}:{end}"]) for end in ("low", "high")]
            whole = isinstance(value, int)
            low, high = (self._number(round(end) if whole else end) for end in ends)
            return f"{shown} [{low}, {high}]"
        if self.error is not None and row.get(self.error) is not None:
            shown += f" ± {row[self.error]:.{self.digits}f}"
        if self.upper is not None and row.get(self.upper) not in (None, value):
            shown += f"{' to ' if self.signed else '–'}{self._number(row[self.upper])}"
        return shown

    def _number(self, value: Any) -> str:
        match value:
            case bool():
                return "yes" if value else "no"
            case int():
                return f"{value:,}"
            case float() if self.general:
                return by_hand(value)
            case float() if self.bounded and 0 < value < 10**-self.digits:
                return f"<{10**-self.digits:.{self.digits}f}"
            case float():
                sign = "+" if self.signed else ""
                shown = f"{value:{sign}.{self.digits}f}"
                # Rounding must not turn a difference into a signed zero.
                return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")
            case _:
                return str(value)


def text(key: str, header: str, under: str = "") -> Column:
    """A column of words: left-aligned."""
    return Column(key, header, under, digits=-1)


@dataclass(frozen=True)
class Sheet:
    """A table ready to print: cells in blocks, with notes below."""

    title: str
    columns: tuple[Column, ...]
    blocks: list[tuple[str, list[list[str]]]]
    notes: list[str]


def sheet(
    frame: polars.DataFrame,
    title: str,
    columns: Sequence[Column],
    notes: Iterable[str],
) -> Sheet:
    """Format `frame`.

    Its column `source` parts the blocks; a row's `remark`, if any, becomes a lettered note that the
    last of the row's leading words refers to. Columns without any value are left out.
    """
    rows = frame.to_dicts()
    shown = tuple(c for c in columns if any(row.get(c.key) is not None for row in rows))
    named = max(sum(1 for _ in takewhile(lambda column: column.is_text, shown)) - 1, 0)
    remarks: list[str] = []
    blocks = []
    for source, members in groupby(rows, key=lambda row: row.get("source") or ""):
        cells = []
        for row in members:
            line = [column.show(row) for column in shown]
            if remark := row.get("remark"):
                if remark not in remarks:
                    remarks.append(remark)
                line[named] += f" [{_letter(remarks.index(remark))}]"
            cells.append(line)
        blocks.append((GROUPS.get(source, source), cells))
    lettered = [f"[{_letter(number)}] {remark}" for number, remark in enumerate(remarks)]
    return Sheet(title, shown, blocks, [*notes, *lettered])


def _letter(number: int) -> str:
    return chr(ord("a") + number)


def to_csv(frame: polars.DataFrame) -> str:
    """All columns of `frame` at full precision."""
    buffer = io.BytesIO()
    frame.write_csv(buffer)
    return buffer.getvalue().decode()


def to_markdown(table: Sheet) -> str:
    """A pipe table, its blocks opened by a bold row, its notes as a list."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    headers = [f"{c.under}: {c.header}" if c.under else c.header for c in table.columns]
    lines = [f"### {table.title}", "", line(headers)]
    lines.append(line("---" if column.is_text else "---:" for column in table.columns))
    for heading, rows in table.blocks:
        if heading and len(table.blocks) > 1:
            lines.append(line([f"**{heading}**", *[""] * (len(table.columns) - 1)]))
        lines += [line(row) for row in rows]
    lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≠": r"$\ne$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "→": r"$\to$",
    "∩": r"$\cap$",
    "∪": r"$\cup$",
    "Δ": r"$\Delta$",
    "θ": r"$\theta$",
    "η": r"$\eta$",
    "σ": r"$\sigma$",
    "ŵ": r"$\hat{w}$",
    "₀": r"$_{0}$",
    "₊": r"$_{+}$",
    "°": r"$^{\circ}$",
    "·": r"$\cdot$",
    "‖": r"$\Vert$",
    "⁻": r"$^{-}$",
    "⁰": r"$^{0}$",
    "⁵": r"$^{5}$",
    "\u00a0": "~",
}


_LONG = 9
"""Headings of more characters than this are broken."""
_NUMBER = re.compile(r"^Table \d+\. ")
"""LaTeX numbers its tables itself."""


def escape(words: str) -> str:
    """`words` with LaTeX's special characters and our mathematical ones made printable."""
    return "".join(_LATEX.get(character, character) for character in words)


_FITTED = r"""  \def\whole{%
    \centering
    \caption{@TITLE@}
    \label{@LABEL@}
    \sbox0{\small\rows}%
    \ifdim\wd0>\linewidth\sbox0{\footnotesize\rows}\fi
    \ifdim\wd0>\linewidth\sbox0{\scriptsize\rows}\fi
    \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi@NOTES@}%
  \sbox0{\scriptsize\rows}%
  \ifdim\wd0>1.1\linewidth
    \rotatebox{90}{\begin{minipage}{\textheight}\whole\end{minipage}}%
  \else
    \whole
  \fi
\end{table}
"""
"""The largest type that fits, from small to script size; what is too wide even so lies sideways."""


def to_latex(table: Sheet, label: str) -> str:
    """A `table` float in the manner of booktabs; needs the packages booktabs and graphicx."""
    alignment = "".join("l" if column.is_text else "r" for column in table.columns)
    lines = [
        "% Needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "  \\setlength{\\tabcolsep}{3.5pt}",
        f"  \\def\\rows{{\\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        "    \\toprule",
        *_spanners(table.columns),
        _latex_row(map(_head, table.columns)),
    ]
    for heading, rows in table.blocks:
        lines.append("    \\midrule")
        if heading and len(table.blocks) > 1:
            width = len(table.columns)
            lines.append(
                f"    \\multicolumn{{{width}}}{{@{{}}l}}{{\\textit{{{escape(heading)}}}}} \\\\"
            )
        lines += [_latex_row(escape(cell) for cell in row) for row in rows]
    lines += ["    \\bottomrule", "  \\end{tabular}}%"]
    notes = [f"\\par\n      {escape(note)}" for note in table.notes]
    below = "\\par\\medskip\n    \\begin{minipage}{\\linewidth}\\footnotesize"
    below += "".join(notes).removeprefix("\\par") + "\n    \\end{minipage}"
    fitted = (
        _FITTED.replace("@TITLE@", escape(_NUMBER.sub("", table.title)))
        .replace("@LABEL@", f"tab:{label.replace('_', '-')}")
        .replace("@NOTES@", below if notes else "")
    )
    return "\n".join(lines) + "\n" + fitted


def _head(column: Column) -> str:
    """A column's heading, a long one broken where its lines are most alike in length."""
    words = column.header.split(" ")
    if len(column.header) <= _LONG or len(words) == 1:
        return escape(column.header)
    breaks = ((" ".join(words[:k]), " ".join(words[k:])) for k in range(1, len(words)))
    lines = min(breaks, key=lambda parts: max(map(len, parts)))
    stacked = r" \\ ".join(map(escape, lines))
    place = "[l]" if column.is_text else "[r]"
    return f"\\shortstack{place}{{{stacked}}}"


def _latex_row(cells: Iterable[str]) -> str:
    return "    " + " & ".join(cells) + r" \\"


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """(heading, number of columns) of the headings that neighbouring columns share."""
    return [(under, len(list(members))) for under, members in groupby(columns, lambda c: c.under)]


def _spanners(columns: Sequence[Column]) -> list[str]:
    """The row of shared headings, and the rules under them."""
    if not any(column.under for column in columns):
        return []
    cells: list[str] = []
    rules, first = [], 1
    for under, width in spans(columns):
        last = first + width - 1
        if under:
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(under)}}}")
            rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
        else:
            cells += [""] * width
        first = last + 1
    return [_latex_row(cells), "    " + " ".join(rules)]


SUFFIXES = (".csv", ".md", ".tex")
"""Of the files of a table."""


def write(frame: polars.DataFrame, table: Sheet, name: str, folder: Path) -> list[Path]:
    """Write `<name>.csv`, `.md` and `.tex` into `folder`; returns the paths."""
    contents = {
        ".csv": to_csv(frame),
        ".md": to_markdown(table),
        ".tex": to_latex(table, name),
    }
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{name}{suffix}"
        write_text(path, content)
        paths.append(path)
    return paths
