r"""Forms of answers: lists, tuples, sets, intervals, inequalities, choices, numbers in a base."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

INFINITY = r"\infty"
_OPENING, _CLOSING = "([{", ")]}"
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_AND = re.compile(
    r",?\s*(?:\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*"
)
_BASE = re.compile(
    r"\(?\s*([0-9A-Fa-f]+)\s*\)?\s*(?:_\s*(?:\{\s*(?:\\text\s*\{)?\s*(\w+)\s*\}?\s*\}|(\d))"
    r"|\\text\s*\{\s*\(?\s*(?:in )?base[ -]?(\w+)\s*\)?\s*\}|\(?\s*base[ -]?(\w+)\s*\)?)"
)
_BASES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_LETTER = r"([A-J])"
_CHOICE = re.compile(rf"\(\s*{_LETTER}\s*\)|\\text\s*\{{\s*\(?\s*{_LETTER}\s*\)?\s*[.:)]?\s*\}}")
_CHOSEN = re.compile(
    rf"(?:\(\s*([A-Ja-j])\s*\)|\\text\s*\{{\s*\(?\s*{_LETTER}\s*\)?\s*[.:)]?\s*\}}|{_LETTER}\s*[.:)]"
    rf"|\\text\s*\{{\s*\(?\s*{_LETTER}\s*[).:]\s*(?=\S)|{_LETTER}$)\s*(.*)"
)
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|<|>")
_VARIABLE = re.compile(r"[A-Za-z]")
_MEMBER = re.compile(r"([A-Za-z])\s*\\in(?![a-zA-Z])\s*")
_LEFT_SIDE = re.compile(
    r"([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?|(?:\\angle\s*)?[A-Z]{1,3}|\\text\s*\{[^{}]*\}|)\s*=\s*"
)


@dataclass(frozen=True)
class Items:
    """Several answers: their brackets (`()`, `[)`, `{}`; empty for a bare list) and the items."""

    brackets: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`; `closed` says of both ends whether they belong to it."""

    low: str
    high: str
    closed: tuple[bool, bool]


def items(text: str) -> Items | None:
    """A list, tuple, set or interval; None for a single answer."""
    brackets, inner = "", text
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes(text) == len(text) - 1:
        brackets, inner = "{}", text[2:-2]
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes(text) == len(text) - 1:
        brackets, inner = text[0] + text[-1], text[1:-1]
    else:
        inner = _AND.sub(", ", text)
    found = _split(inner, bool(brackets))
    if brackets in ("", "()") and len(found) == 1:
        return None
    return Items(brackets, tuple(found)) if all(found) else None


def _split(text: str, bracketed: bool) -> list[str]:
    """Parts between commas or semicolons outside brackets.

    A comma without a space that parts three digits may belong to a number. It does where no other
    comma lacks a space; within brackets only if there are others.
    """
    grouping = {
        match.start() + i
        for match in _GROUPED.finditer(text)
        for i, character in enumerate(match[0])
        if character == ","
    }
    places = [i for i, depth in _depths(text) if depth == 0 and text[i] in ",;"]
    others = [i for i in places if i not in grouping]
    if all(text[i + 1 : i + 2] == " " for i in others) and (others or not bracketed):
        places = others
    return [text[a + 1 : b].strip() for a, b in pairwise([-1, *places, len(text)])]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    depth = 0
    for i, character in enumerate(text):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        yield i, depth


def _closes(text: str) -> int:
    """Where the bracket that `text` begins with closes, of whichever kind; -1 if nowhere."""
    for i, depth in _depths(text):
        if depth == 0 and text[i] in _CLOSING:
            return i
    return -1


def signs(text: str) -> tuple[str, str] | None:
    r"""Both values of an expression with one `\pm` outside brackets, else None."""
    if text.count(r"\pm") != 1:
        return None
    before, after = text.split(r"\pm")
    both = f"{before}+{after}".lstrip(" +"), f"{before}-{after}"
    return both[0], both[1]


def intervals(text: str) -> tuple[str, list[Interval]] | None:
    r"""A union of intervals, as such or as inequalities of one variable, and the variable's name.

    `(a, b)` counts as an interval only beside others or with an infinite end.
    """
    name = ""
    if match := _MEMBER.match(text):
        name, text = match[1], text[match.end() :]
    parts = re.split(r"\\cup(?![a-zA-Z])|" + _AND.pattern.replace("and|or", "or"), text)
    found = []
    for part in parts:
        one = _interval(part.strip())
        if one is None or (name and one[0] and one[0] != name):
            return None
        name = name or one[0]
        found.append(one[1])
    return name, found


def _interval(text: str) -> tuple[str, Interval] | None:
    if found := items(text):
        if len(found.items) == 2 and len(found.brackets) == 2 and found.brackets != "{}":
            low, high = map(_end, found.items)
            return "", Interval(low, high, (found.brackets[0] == "[", found.brackets[1] == "]"))
        return None
    marks = [match[0] for match in _RELATION.finditer(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if not all(sides):
        return None
    closed = [mark in (r"\le", r"\ge") for mark in marks]
    down = [mark in (">", r"\ge") for mark in marks]
    if len(marks) == 1:
        if _VARIABLE.fullmatch(sides[1]) and not _VARIABLE.fullmatch(sides[0]):
            sides, down = sides[::-1], [not down[0]]
        if not _VARIABLE.fullmatch(sides[0]):
            return None
        if down[0]:
            return sides[0], Interval(_end(sides[1]), INFINITY, (closed[0], False))
        return sides[0], Interval("-" + INFINITY, _end(sides[1]), (False, closed[0]))
    if len(marks) == 2 and down[0] == down[1] and _VARIABLE.fullmatch(sides[1]):
        if down[0]:
            sides, closed = sides[::-1], closed[::-1]
        return sides[1], Interval(_end(sides[0]), _end(sides[2]), (closed[0], closed[1]))
    return None


def _end(text: str) -> str:
    squeezed = text.replace(" ", "").removeprefix("+")
    return squeezed if squeezed.lstrip("-") == INFINITY else text


def based(text: str) -> tuple[str, str] | None:
    """Digits and base of a number in a base (`2516_8`, `11_{two}`, `101 base 2`)."""
    match = _BASE.fullmatch(text)
    if match is None:
        return None
    base = next(filter(None, match.groups()[1:])).lower()
    base = _BASES.get(base, base)
    if not base.isdigit() or not 2 <= int(base[:3]) <= 36:
        return None
    return match[1].lstrip("0").upper() or "0", base


def choice(text: str) -> str | None:
    r"""The letter, where all that is written is one in brackets or as text: `(C)`, `\text{C}`."""
    match = _CHOICE.fullmatch(text)
    return next(filter(None, match.groups())) if match else None


def chosen(text: str) -> tuple[str, str] | None:
    """A choice's letter and what follows it: `(C) 42`, `C. 42`, `C`."""
    match = _CHOSEN.fullmatch(text)
    if match is None:
        return None
    *letters, rest = match.groups()
    return next(filter(None, letters)).upper(), rest.removesuffix("}") if match[4] else rest


def assigned(text: str) -> tuple[str, str]:
    """The name before an equals sign, if that is all there is before it, and what it names."""
    match = _LEFT_SIDE.match(text)
    if match is None or "=" in text[match.end() :]:
        return "", text
    return match[1].replace(" ", ""), text[match.end() :]


def relational(text: str) -> bool:
    """Whether something is compared by <, >, ≤, ≥ or ≠."""
    return bool(_RELATION.search(text)) or r"\ne " in text + " "
