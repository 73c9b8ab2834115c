"""Captions: one short text an artefact, in the little reStructuredText that they use."""

import html
import re
from pathlib import Path

Caption = str
"""A caption as inline HTML, safe to embed; empty where there is none."""

_MARKS = (
    (re.compile(r"``(.+?)``"), r"<code>\1</code>"),
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<!\w)\*(?!\s)(.+?)(?<!\s)\*(?!\w)"), r"<em>\1</em>"),
)


def read_caption(folder: Path | None, name: str) -> Caption:
    """The caption `<folder>/<name>.rst`, or nothing where there is no such file."""
    path = None if folder is None else folder / f"{name}.rst"
    if path is None or not path.exists():
        return ""
    return to_html(path.read_text(encoding="utf-8"))


def to_html(text: str) -> Caption:
    """Bold, emphasised and literal words; paragraphs are run together."""
    words = html.escape(" ".join(text.split()))
    for pattern, replacement in _MARKS:
        words = pattern.sub(replacement, words)
    return words


def to_plain(caption: Caption) -> str:
    """The caption without marks, for Markdown."""
    return html.unescape(re.sub(r"</?(?:code|strong|em)>", "", caption))
