"""Rewards that a program can check: one number for each sampled answer."""

import importlib
import math
import random
from collections.abc import Callable

from subnetworks.errors import UserError

_OPENING = "\\boxed{"

Reward = Callable[[str, str], float]
"""From an answer's text and the truth to a finite number: 1 is right, 0 is wrong."""


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` of `text` (braces may nest); None without one."""
    start = text.rfind(_OPENING)
    if start < 0:
        return None
    depth = 1
    begin = start + len(_OPENING)
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def boxed(response: str, truth: str) -> float:
    """1.0 if the last boxed answer is `truth`, white space apart; else 0.0."""
    answer = last_boxed(response)
    if answer is None:
        return 0.0
    return float("".join(answer.split()) == "".join(truth.split()))


def whatever(response: str, truth: str) -> float:
    """1.0 for any answer: with it, rejection sampling rejects nothing."""
    return 1.0


def load(name: str) -> Reward:
    """The reward called `name`: `boxed`, or `package.module:function`; of `random`, which knows no
    right answer, the one that says how often the answers are right: `boxed`.

    Raises:
        UserError: there is no such module or function.
    """
    if ":" not in name:
        return boxed
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"settings: reward {name!r} cannot be imported ({error}); "
            "name a function of an installed module, or put its folder on PYTHONPATH"
        ) from None
    if not callable(found):
        raise UserError(f"settings: reward {name!r} is no function")
    return found


def checked(reward: Reward, response: str, truth: str) -> float:
    """The reward of one answer.

    Raises:
        UserError: the function raised, or gave anything but a finite number.
    """
    where = f"reward: for the answer {response!r} to a problem whose truth is {truth!r}"
    try:
        value = reward(response, truth)
    except Exception as error:
        raise UserError(
            f"{where} it raised {type(error).__name__}: {error}; it must give a number"
        ) from error
    if isinstance(value, bool):
        value = float(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} it gave {value!r}; it must give a finite number")
    return float(value)


def coin(*place: int) -> float:
    """The placebo: 0 or 1 with equal chance, the same whenever `place` is the same."""
    return float(random.Random("/".join(map(str, place))).random() < 0.5)
