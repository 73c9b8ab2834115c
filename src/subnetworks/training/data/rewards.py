"""Rewards that a program can check: one number for each sampled answer.

`math`, `boxed` and `gsm8k` say whether an answer is right: by the evaluation's own grader, as exact
text, or as GSM8K writes its answers.
`format` and `length` go with them in a weighted sum; `random` is the placebo.
"""

import importlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from subnetworks.core.errors import UserError
from subnetworks.grading import verifier
from subnetworks.grading.boxes import last_boxed, spoken
from subnetworks.grading.grader import math_reward

Reward = Callable[[str, str], float]
"""From an answer's text and the truth to a finite number: 1 is right, 0 is wrong."""


@dataclass(frozen=True)
class Ending:
    """How a sampled answer ended: cut off for want of tokens or not, and how long it is as a share
    of the longest that was allowed."""

    cut: bool = False
    share: float = 0.0


def boxed(response: str, truth: str) -> float:
    """1.0 if the last boxed answer is `truth`, white space apart; else 0.0."""
    answer = last_boxed(spoken(response) or "")
    if answer is None:
        return 0.0
    return float("".join(answer.split()) == "".join(truth.split()))


# lm-eval's filter `strict-match` of the task gsm8k, so that training rewards what is scored.
_GSM8K = re.compile(r"#### (-?[0-9.,]+)")


def gsm8k(response: str, truth: str) -> float:
    """1.0 if the number behind the first `#### ` is `truth`, but for commas and a final dot."""
    found = _GSM8K.search(spoken(response) or "")
    if found is None:
        return 0.0
    return float(_bare(found[1]) == _bare(truth.strip()))


def _bare(number: str) -> str:
    return number.replace(",", "").replace("$", "").removesuffix(".")


def formatted(response: str, truth: str) -> float:
    """1.0 if there is a boxed answer, right or wrong, behind any reasoning; else 0.0."""
    return float(bool(last_boxed(spoken(response) or "")))


def whatever(response: str, truth: str) -> float:
    """1.0 for any answer: with it, rejection sampling rejects nothing."""
    return 1.0


VERDICTS: dict[str, Reward] = {"boxed": boxed, "math": math_reward, "gsm8k": gsm8k}
"""What an answer that was cut off gets nothing from, because it is wrong."""


def load(name: str) -> Reward:
    """The reward called `name`: one of `VERDICTS`, or `package.module:function`.

    Raises:
        UserError: there is no such reward, module or function, or math-verify is missing.
    """
    if name == "math":
        verifier.require()
    if name in VERDICTS:
        return VERDICTS[name]
    if ":" not in name:
        raise UserError(
            f"settings: reward {name!r} does not say what is right; "
            f"allowed: {', '.join(VERDICTS)}, package.module:function"
        )
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
    except UserError:
        raise
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


def weighted(reward: str | Mapping[str, float]) -> dict[str, float]:
    """The weights of a reward's parts, of which a name alone is one."""
    return {reward: 1.0} if isinstance(reward, str) else dict(reward)


def written(reward: str | Mapping[str, float]) -> str:
    """A reward as one text, which `read` reads."""
    return json.dumps(weighted(reward))


def read(text: str) -> dict[str, float]:
    """The weights that `written` wrote."""
    weights: dict[str, float] = json.loads(text)
    return weights


def score(
    reward: str | Mapping[str, float],
    answers: Sequence[str],
    truths: Sequence[str],
    seed: int,
    step: int,
    endings: Sequence[Ending] | None = None,
) -> tuple[list[float], list[float]]:
    """What each answer is rewarded with, and whether it is right.

    Right is what the first part of the reward that knows the truth says; where none does, `boxed`.

    Args:
        reward: a name, or names with weights.
        endings: how each answer ended; by default all were finished.

    Raises:
        UserError: as `checked` and `load` do.
    """
    weights = weighted(reward)
    ends = endings or [Ending()] * len(answers)
    knowing = next((name for name in weights if name in VERDICTS or ":" in name), "boxed")
    verdicts = {
        name: _values(name, answers, truths, ends)
        for name in {*weights, knowing}
        if name in VERDICTS or ":" in name
    }
    parts = {
        **verdicts,
        "format": [
            0.0 if end.cut else formatted(answer, "")
            for answer, end in zip(answers, ends, strict=True)
        ],
        "length": [end.share for end in ends],
        "random": [coin(seed, step, index) for index in range(len(answers))],
    }
    paid = [
        sum(weight * parts[name][index] for name, weight in weights.items())
        for index in range(len(answers))
    ]
    return paid, verdicts[knowing]


def _values(
    name: str, answers: Sequence[str], truths: Sequence[str], ends: Sequence[Ending]
) -> list[float]:
    function = load(name)
    return [
        0.0 if end.cut and name in VERDICTS else checked(function, answer, truth)
        for answer, truth, end in zip(answers, truths, ends, strict=True)
    ]
