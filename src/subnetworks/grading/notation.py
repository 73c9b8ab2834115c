r"""LaTeX answers in one notation: what only looks different is written alike.

Text stays marked as `\text{…}`, for letters in it are words or units and letters outside variables.
A degree mark becomes `°`; `$` and `%` stay where they mean money and percent.
"""

import re
import unicodedata

from subnetworks.grading.boxes import closing

_UNICODE = {
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "˚": "°", "º": "°", "…": r"\ldots ",
    "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RADICAL = re.compile(r"√\s*(?:\((?P<inner>[^()]*)\)|(?P<plain>\d+|[a-zA-Z]))")

# Commands whose argument is meant as text, as mathematics in other letters, or not at all.
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|mathsf|operatorname\*?)\s*(?=\{)"
)
_BOLD = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathnormal|underline|pmb|ensuremath)\s*(?=\{)"
)
_PLAIN = re.compile(r"\\text(?=\{)")
_HIDDEN = re.compile(r"\\(?:[hv]?phantom|hspace\*?|vspace\*?|label|tag)\s*(?=\{)")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text)?color\s*(?:\[[^\]{}]*\])?\s*\{[^{}]*\}", ""),
        (r"\*\*", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|large|Large|LARGE|huge|Huge|small|bf|rm|it)"
         r"(?![a-zA-Z])", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\[()\[\]]", ""),
        # Thousands that LaTeX marks as such.
        (r"(?<=\d)(?:,\\!|\\,|\{,\}(?:\\!)?)\s*(?=\d{3}(?!\d))", ""),
        (r"\^\s*\{\s*(\\text\s*\{\s*(?:st|nd|rd|th)\s*\})\s*\}", r"\1"),
        (r"\\!", ""),
        (r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"(?:\{\})?\^\s*\{?\s*(?:\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|°)\s*\}?", "°"),
        (r"\\(?:degree|textdegree)(?![a-zA-Z])(?:\{\})?", "°"),
        (r"\\%", "%"),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:dots|cdots|dotsc|ldots)(?![a-zA-Z])|\.\.\.+", r"\\ldots "),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    )
)  # fmt: skip


def tidy(answer: str) -> str:
    """An answer in one notation. Never fuses numbers, and drops no mark that has a meaning."""
    answer = _characters(answer)
    answer = _TEXT.sub(r"\\text", _unwrapped(_unwrapped(answer, _HIDDEN, keep=False), _BOLD))
    answer = _dollars(answer)
    for expression, new in _REWRITES:
        answer = expression.sub(new, answer)
    answer = re.sub(r"\s+", " ", answer).strip()
    before = None
    while answer != before:
        before = answer
        answer = answer.strip().rstrip(",;:").removesuffix("\\\\").strip()
        if answer.endswith(".") and not answer.endswith("\\ldots."):
            answer = answer[:-1]
        if answer.startswith("{") and closing(answer, 0) == len(answer) - 1:
            answer = answer[1:-1]
    return answer


def plain(tidied: str) -> str:
    r"""The same with `\text{…}` as its content, spaces around it kept apart by one space."""
    return re.sub(r"\s+", " ", _unwrapped(tidied, _PLAIN)).strip()


def squeezed(tidied: str) -> str:
    """Without spaces but those that keep two numbers apart: `1 2`, and `1, 000`."""
    return re.sub(r"(?<!\d)(?<!\d,) | (?!\d)|(?<=,) (?!\d{3}(?!\d))", "", plain(tidied))


def _characters(text: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = re.sub("[\uff01-\uff5e]", lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = "".join(_UNICODE.get(character, character) for character in text)
    return _RADICAL.sub(lambda m: rf"\sqrt{{{m['inner'] or m['plain']}}}", text)


def _unwrapped(text: str, command: re.Pattern[str], keep: bool = True) -> str:
    """Without a command before a braced argument; without the argument unless `keep`."""
    position = 0
    while match := command.search(text, position):
        end = closing(text, match.end())
        if end is None:
            break
        inner = text[match.end() + 1 : end] if keep else ""
        text = text[: match.start()] + inner + text[end + 1 :]
        position = match.start()
    return text


def _dollars(text: str) -> str:
    r"""`\$` as `$`; unescaped ones in pairs only mark a formula, a single one is money."""
    money = "\ue000"
    text = text.replace(r"\$", money)
    if text.count("$") % 2 == 0:
        text = text.replace("$", "")
    return text.replace(money, "$")
