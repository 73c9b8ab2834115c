"""Captions: one short text an artefact, in the little reStructuredText that they use."""

import html
import re

Caption = str
"""A caption as inline HTML, safe to embed."""

_MARKS = (
    (re.compile(r"``(.+?)``"), r"<code>\1</code>"),
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<!\w)\*(?!\s)(.+?)(?<!\s)\*(?!\w)"), r"<em>\1</em>"),
)


def to_html(text: str) -> Caption:
    """Bold, emphasised and literal words; paragraphs are run together."""
    words = html.escape(" ".join(text.split()))
    for pattern, replacement in _MARKS:
        words = pattern.sub(replacement, words)
    return words


def to_plain(caption: Caption) -> str:
    """The caption without marks, for Markdown."""
    return html.unescape(re.sub(r"</?(?:code|strong|em)>", "", caption))
