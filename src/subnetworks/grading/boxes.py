r"""The answer in a response: the content of its last `\boxed{…}`, behind any reasoning."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_THINK, _SPOKEN = "<think>", "</think>"
LONGEST = 100_000  # characters of a box without braces


def spoken(response: str, thinking: bool = False) -> str | None:
    """What a response says behind its last `</think>`; None if it is still inside `<think>`.

    `thinking` says that the prompt has opened `<think>` already.
    """
    _, closed, rest = response.rpartition(_SPOKEN)
    if _THINK in rest or (thinking and not closed):
        return None
    return rest


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, `\fbox{…}` or `\boxed x`; None if there is none, or if
    the last one does not end. An earlier box never replaces it."""
    start = max((match.end() for match in _BOX.finditer(text)), default=None)
    if start is None:
        return None
    if text[start : start + 1] == "{":
        end = closing(text, start)
        return None if end is None else text[start + 1 : end].strip()
    return _unbraced(text[start : start + LONGEST]) or None


def closing(text: str, start: int) -> int | None:
    r"""Where the brace that opens at `start` closes; `\{` and `\}` do not count."""
    depth, position = 0, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def _unbraced(text: str) -> str:
    """Up to the first space outside brackets or the end of the formula, without its full stop."""
    depth, end = 0, 0
    while end < len(text):
        character = text[end]
        if character in "$\n" or text[end : end + 2] in ("\\)", "\\]"):
            break
        if character.isspace() and depth == 0:
            break
        depth += (character in "{([") - (character in "})]")
        if depth < 0:
            break
        end += 1
    return text[:end].rstrip(".,;:?* \t")
