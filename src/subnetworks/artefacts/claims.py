"""Claims of the paper that artefacts test, and what is left of effects once something plainer is
allowed for: in numbers and in plain words, each with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from subnetworks.artefacts.turns import Over
from subnetworks.experiment.facts import PLACEBO as PLACEBO

Verdict = Literal["yes", "unclear", "no"]
SUPERVISED = ("SFT", "RFT", "RAFT")
MARKS = {"yes": "✓", "unclear": "~", "no": "✗"}
"""A sign for each verdict."""
TWO_SIDED_95 = 1.96
_STAYS, _VANISHES = 0.9, 0.1


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, or one control of it, compared with this experiment.

    Attributes:
        claim: the effect, as the paper states it.
        appears: whether it appears here; `unclear` means within the noise or in part.
        here: our numbers.
        paper: the paper's; with `{name}` for what the artefact quotes of it, as in `brief`.
        brief: the claim and its numbers in half a line, for the terminal; empty for lesser ones.
        margin: by how much what it needs holds at the least, in the unit of `here`; below 0 it does
            not. None where that is no number.
    """

    claim: str
    appears: Verdict
    here: str
    paper: str
    brief: str = ""
    margin: float | None = None


def of_all_seeds(claim: Claim, single: Sequence[Claim], over: Over) -> Claim:
    """A claim of the means with what every seed alone says of it.

    It appears, or does not, if it does so at every seed and the interval of its margin over the
    seeds does not hold 0; otherwise it is unclear.
    """
    verdicts = [one.appears for one in single]
    agreed: Verdict = verdicts[0] if len({*verdicts, claim.appears}) == 1 else "unclear"
    words = f"{claim.here}; over {len(single)} seeds: yes at {verdicts.count('yes')}"
    if found := over.spread([one.margin for one in single]):
        low, high = found.interval()
        words += f", least margin {found.value:+.3g} [{low:+.3g}, {high:+.3g}]".replace("-", "−")
        if low <= 0 <= high:
            agreed = "unclear"
    return replace(claim, appears=agreed, here=words)


@dataclass(frozen=True)
class Controlled:
    """One effect before and after its control.

    Attributes:
        effect: what is claimed.
        control: what is allowed for.
        before, after: the effect in words and numbers, without and with the control.
        left: the share of it that is left, on average; None where there is no such effect.
        reading: what that means, in plain words.
    """

    effect: str
    control: str
    before: str
    after: str
    left: float | None
    reading: str

    @property
    def verdict(self) -> str:
        """`stays` (nine tenths or more), `vanishes` (a tenth or less), else `shrinks`.

        `absent` where there is no effect to begin with.
        """
        if self.left is None:
            return "absent"
        if self.left >= _STAYS:
            return "stays"
        return "vanishes" if self.left <= _VANISHES else "shrinks"

    @property
    def is_less(self) -> bool:
        """Whether the control takes something of the effect away."""
        return self.verdict in ("shrinks", "vanishes")

    @property
    def shown(self) -> str:
        """The verdict, with the share that is left of an effect that shrinks."""
        if self.left is None or self.verdict != "shrinks":
            return self.verdict
        return f"shrinks to {100 * self.left:.0f} %"


def all_hold(conditions: list[bool]) -> Verdict:
    """Yes if all hold, no if none does, unclear if some do."""
    return "yes" if all(conditions) else "unclear" if any(conditions) else "no"


def graded(excesses: list[float], clear: float) -> Verdict:
    """Yes if all exceed `clear` percentage points, no if none exceeds 0."""
    if all(excess > clear for excess in excesses):
        return "yes"
    return "unclear" if any(excess > 0 for excess in excesses) else "no"


def span(values: Iterable[float], digits: int = 1, sign: bool = False) -> str:
    """`lowest–highest`, or the one number; with signs `lowest to highest`."""
    numbers = list(values)
    low, high = (f"{edge(numbers):{'+' if sign else ''}.{digits}f}" for edge in (min, max))
    shown = low if low == high else f"{low} to {high}" if sign else f"{low}–{high}"
    return shown.replace("-", "−")


def listed(rows: list[dict[str, Any]], name: str, show: Callable[[dict[str, Any]], str]) -> str:
    """What `show` gives of each row, behind the row's `name`."""
    return ", ".join(f"{row[name]} {show(row)}" for row in rows)


def unchanged(row: dict[str, Any]) -> str:
    """A row's sparsity."""
    return f"{row['sparsity_pct']:.1f} %"


def average(values: Iterable[float]) -> float:
    """The mean."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def left(before: float, after: float) -> float | None:
    """The share of an effect that is left; None where there was none."""
    return max(after, 0.0) / before if before > 0 else None


def is_supervised(row: dict[str, Any]) -> bool:
    """Whether a row's algorithm imitates text."""
    return (row["algorithm"] or "").upper().startswith(SUPERVISED)
