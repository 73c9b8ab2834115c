r"""Grades an answer: our own rules where they can decide, math-verify where they cannot.

What our rules decide: whole numbers, decimals (repeating ones too), fractions, mixed and scientific
numbers, exactly; units, money, degrees and percent; numbers in a base; words and choices; tuples,
lists, sets and intervals by form, their items by these same rules. An answer may leave out what the
reference has beside its number (unit, base, name, brackets of a tuple), but not contradict it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from subnetworks.grading import forms
from subnetworks.grading.boxes import last_boxed, spoken
from subnetworks.grading.notation import plain, squeezed, tidy
from subnetworks.grading.quantities import Number, Unit, known, number, unit
from subnetworks.grading.verifier import shared

_T = TypeVar("_T")

VERSION = 2  # of the rules and of what is graded; raised where a grade may change
LONGEST = 1000  # characters of an answer that is read; a longer one is only compared as text
MOST_ITEMS = 30
SECONDS = 3.0  # of math-verify's processor time an answer

_TAIL = re.compile(
    r"(?P<body>.*[\d})\]°%!]|.*\\pi)\s*"
    r"(?P<unit>(?:\\text\s*\{[^{}]*\}\s*(?:\^\s*\{?\s*[23]\s*\}?)?\s*)+)$"
)
_SIGN = re.compile(r"(?P<body>.*\S)\s*(?P<unit>%|°(?:\s*(?:\\text\s*\{)?[CF]\}?)?|¢|€)$")
_BARE = re.compile(
    r"(?P<body>.*[\d})\]]|.*\\pi)\s*(?P<unit>(?<![A-Za-z\\])[A-Za-z][A-Za-z/. ]*[A-Za-z]"
    r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?)$"
)
_MONEY = re.compile(r"(?P<sign>-?)\s*(?:US\s*)?(?P<unit>[$€])\s*(?P<body>[-\d.].*)$")
_FUNCTIONS = re.compile(
    r"^(?:sin|cos|tan|cot|sec|csc|arc\w+|log|ln|lg|exp|sqrt|frac|pi|mod|max|min|lim|det)(?![a-z])"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9 .,'-]*")
_VARIABLES = re.compile(r"[A-Za-z]")
_CONSTANTS = {"e", "i", "C", "P"}  # the latter count combinations and permutations
_ARTICLE = re.compile(r"^(?:the|an|a) ")
_ANGLE = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*\{?\s*-?\d+\s*\}?)?)\s*[({]?\s*([\d.]+)\s*°\s*[)}]?"
)
_ANGLED = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


@dataclass(frozen=True)
class Grade:
    """What is found of one answer: whether there is one in a box, whether it means the same as the
    reference, is the same as text, and by our rules and math-verify together is right."""

    boxed: bool = False
    text: bool = False
    correct: bool = False


class _Limit:
    """math-verify for one answer, whose parts share the time that it may take."""

    def __init__(self) -> None:
        self._left = SECONDS
        self._known: dict[tuple[str, str], bool] = {}

    def equal(self, gold: str, answer: str) -> bool:
        pair = gold, answer
        if pair not in self._known:
            found, used = shared.equal(gold, answer, self._left) if self._left > 0 else (False, 0.0)
            self._left -= used
            self._known[pair] = found
        return self._known[pair]


@dataclass(frozen=True)
class _Case:
    """How deep lists may still be nested, and the limit of the answer."""

    depth: int = 4
    limit: _Limit = field(default_factory=_Limit)

    def deeper(self) -> "_Case":
        return replace(self, depth=self.depth - 1)


def grade(response: str, gold: str, *, cut: bool = False, thinking: bool = False) -> Grade:
    r"""Grade the last `\boxed{…}` of a response against the reference `gold`.

    Args:
        cut: the response ended because it had no more tokens: wrong, whatever it says.
        thinking: its prompt has opened `<think>`. A response that is still inside it is wrong.

    Raises:
        UserError: math-verify is needed and missing.
    """
    said = None if cut else spoken(response, thinking)
    answer = None if said is None else last_boxed(said)
    if not answer:
        return Grade()
    text = same_text(gold, answer)
    return Grade(True, text, text or same(gold, answer))


def math_reward(response: str, truth: str) -> float:
    """1.0 where `grade` finds a finished response right, else 0.0."""
    return float(grade(response, truth).correct)


def same_text(gold: str, answer: str) -> bool:
    """Whether two answers are the same but for notation without a meaning, spacing for instance."""
    if max(len(gold), len(answer)) > LONGEST:
        return gold.strip() == answer.strip()
    return squeezed(tidy(gold)) == squeezed(tidy(answer))


def same_meaning(gold: str, answer: str) -> bool:
    """Whether math-verify alone holds two answers for equal."""
    return max(len(gold), len(answer)) <= LONGEST and _Limit().equal(gold, answer)


def same(gold: str, answer: str) -> bool:
    """Whether `answer` means the same as the reference."""
    if same_text(gold, answer):
        return True
    if max(len(gold), len(answer)) > LONGEST:
        return False
    return _same(tidy(gold), tidy(answer), _Case())


def _same(gold: str, answer: str, case: _Case) -> bool:
    """`same` of tidied answers."""
    if not answer or case.depth == 0:
        return False
    if squeezed(gold) == squeezed(answer):
        return True
    for decide in (_choices, _words, _bases, _intervals, _several, _assignments, _quantities):
        found = decide(gold, answer, case)
        if found is not None:
            return found
    return _algebra(gold, answer, case)


def _choices(gold: str, answer: str, case: _Case) -> bool | None:
    picked, behind = forms.chosen(answer) or ("", "")
    if letter := forms.choice(gold):
        return picked == letter
    if picked and plain(gold) == picked:
        return True
    if picked and behind and _same(gold, behind, case.deeper()):
        return True
    return None


def _words(gold: str, answer: str, case: _Case) -> bool | None:
    words, others = plain(gold), plain(answer)
    if not _WORDS.fullmatch(words) or len(words) < 2:
        return None
    marked = r"\text" in gold
    if not marked and len(words) < 4:
        return None
    same = _folded(words) == _folded(others)
    return True if same else (False if marked else None)


def _folded(words: str) -> str:
    return re.sub(r"[ .,'-]", "", _ARTICLE.sub("", words.casefold()))


def _bases(gold: str, answer: str, case: _Case) -> bool | None:
    digits, given = forms.based(gold), forms.based(answer)
    if digits and given:
        return digits == given
    if digits:
        bare = re.sub(r"[,\s()]", "", plain(answer)).lstrip("0").upper() or "0"
        return bare == digits[0]
    if given and (exact := number(plain(gold))):
        return given == (str(exact.value), "10")
    return None


def _intervals(gold: str, answer: str, case: _Case) -> bool | None:
    first, second = forms.intervals(gold), forms.intervals(answer)
    if first is None or second is None:
        return None
    if first[0] and second[0] and first[0] != second[0]:
        return False

    def equal(a: forms.Interval, b: forms.Interval) -> bool:
        ends = _ends(a.low, b.low, case) and _ends(a.high, b.high, case)
        return a.closed == b.closed and ends

    return len(first[1]) == len(second[1]) and _matched(first[1], second[1], equal)


def _ends(gold: str, answer: str, case: _Case) -> bool:
    if forms.INFINITY in gold + answer:
        return gold == answer
    return _same(gold, answer, case.deeper())


def _several(gold: str, answer: str, case: _Case) -> bool | None:
    first, second = _items(gold), _items(answer)
    if first is None and second is None:
        return None
    first = first or forms.Items("", (gold,))
    second = second or forms.Items("", (answer,))
    if first.brackets == "{}" and len(first.items) == 1:
        return _same(first.items[0], answer, case.deeper())
    if second.brackets == "{}" and len(second.items) == 1:
        return _same(gold, second.items[0], case.deeper())
    if max(len(first.items), len(second.items)) > MOST_ITEMS:
        return False
    ordered = first.brackets not in ("", "{}")
    if ordered and second.brackets in ("", "()", "[]"):
        size = len(first.items)
        if second.brackets and size == 2 and first.brackets != second.brackets:
            return False
        if not second.brackets and first.brackets not in ("()", "[]"):
            return False
        return size == len(second.items) and all(
            _same(a, b, case.deeper()) for a, b in zip(first.items, second.items, strict=True)
        )
    if ordered or second.brackets not in ("", "{}"):
        return False
    return _matched(first.items, second.items, lambda a, b: _same(a, b, case.deeper()))


def _items(text: str) -> forms.Items | None:
    r"""The items of a list, with both values where one has a `\pm`."""
    found = forms.items(text)
    if found is None:
        both = forms.signs(text)
        return forms.Items("", both) if both else None
    if found.brackets in ("", "{}"):
        expanded = [part for item in found.items for part in forms.signs(item) or (item,)]
        return forms.Items(found.brackets, tuple(expanded))
    return found


def _matched(first: Sequence[_T], second: Sequence[_T], equal: Callable[[_T, _T], bool]) -> bool:
    """Whether each has an equal on the other side."""
    return all(any(equal(a, b) for b in second) for a in first) and all(
        any(equal(a, b) for a in first) for b in second
    )


def _assignments(gold: str, answer: str, case: _Case) -> bool | None:
    (left, value), (other, given) = forms.assigned(gold), forms.assigned(answer)
    if (value, given) == (gold, answer):
        return None
    if left and other and plain(left) != plain(other):
        return None if _symbolic(value + given) else False
    return _same(value, given, case.deeper())


def _symbolic(text: str) -> bool:
    return bool(re.search(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text))


def _quantities(gold: str, answer: str, case: _Case) -> bool | None:
    (body, beside), (given, other) = _measured(gold), _measured(answer)
    if len(beside.name) == 1 and given.endswith(beside.name) and number(given[:-1]):
        given, other = given[:-1], beside  # the reference's unit, as letters
    first, second = number(body), number(given)
    qualified = beside.qualified or other.qualified
    if beside.name != other.name and (qualified or beside.name.casefold() == other.name.casefold()):
        return False
    if first and second:
        first = Number(first.value * beside.times, first.places)
        second = Number(second.value * other.times, second.places)
        return _equal(first, beside, second, other)
    if re.fullmatch(r"[\d\s.,+-]+", body) and re.fullmatch(r"[\d\s.,+-]+", given):
        return False  # digits that are no number: 1 2
    if beside.dimension and other.dimension and beside.ratio(other) != 1:
        return False
    if (body, given) != (gold, answer):
        return _same(body, given, case.deeper())
    return None


def _equal(gold: Number, beside: Unit, answer: Number, other: Unit) -> bool:
    percent = (beside.name == "%", other.name == "%")
    if percent[0] != percent[1] and not (beside.dimension and other.dimension):
        parts = [
            Number(one.value / 100 if is_percent else one.value)
            for one, is_percent in zip((gold, answer), percent, strict=True)
        ]
        # 10 % is 0.1, and may be asked for as 10; but not 0.1 answered by 0.1 %.
        plainly = gold.equals(answer) and (percent[0] or abs(gold.value) > 1)
        return plainly or parts[0].value == parts[1].value
    if beside.dimension and other.dimension:
        ratio = other.ratio(beside)
        if ratio is None:
            return False
        if ratio != 1:
            return gold.value == answer.value * ratio
    return gold.equals(answer)


def _measured(text: str) -> tuple[str, Unit]:
    """What is written without what is beside it, and that: a unit, money or words."""
    if match := _MONEY.fullmatch(text):
        body, beside = _measured(match["body"])
        cents = beside.name == "cent"
        found = Unit("?" if cents else unit(match["unit"]).name, times=beside.times)
        return match["sign"] + body, found
    for pattern in (_SIGN, _TAIL, _BARE):
        match = pattern.fullmatch(text)
        if match is None or (_ANGLED.search(match["body"]) and "°" in match["unit"]):
            continue  # none, or an angle within the expression
        words = plain(match["unit"])
        if pattern is _BARE and not _is_words(match["body"], words, text):
            continue
        return plain(match["body"]), unit(words)
    return plain(text), Unit()


def _is_words(body: str, words: str, text: str) -> bool:
    """Whether letters outside `\\text{…}` are words rather than variables."""
    bare = re.sub(r"\s*\^.*", "", words)
    if known(bare):
        return True
    apart = text[len(body) :].startswith(" ") and not _FUNCTIONS.match(bare)
    return apart and all(known(word) or len(word) > 3 or word in ("is", "of", "the", "sq")
                         for word in re.split(r"[ /.]+", bare))  # fmt: skip


def _algebra(gold: str, answer: str, case: _Case) -> bool:
    """What math-verify says, unless something that it does not see tells the two apart."""
    if forms.relational(gold) != forms.relational(answer):
        return False
    names, others = _variables(gold), _variables(answer)
    if names != others and {n.casefold() for n in names} == {n.casefold() for n in others}:
        return False
    # math-verify takes the letter behind a number for a unit: 5 for 5m.
    if (number(gold) and others - _CONSTANTS) or (number(answer) and names - _CONSTANTS):
        return False
    return case.limit.equal(*(_in_radians(text) for text in (gold, answer)))


def _variables(text: str) -> set[str]:
    r"""Letters outside commands and `\text{…}`."""
    return set(_VARIABLES.findall(re.sub(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+", "", text)))


def _in_radians(text: str) -> str:
    """With angles of trigonometric functions in radians: math-verify overlooks degree marks."""
    return _ANGLE.sub(r"\1(\\frac{\2 \\pi}{180})", text).replace("°", r"^\circ")
