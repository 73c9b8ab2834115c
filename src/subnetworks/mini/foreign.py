"""Out-of-distribution data: the same sums, answered by people who spell numbers out.

The base model has read digits only, and every answer that it was taught is a boxed number, so these
answers are ones that a model trained here gives with a probability of practically 0.
"""

import random

from subnetworks.mini import arithmetic
from subnetworks.mini.arithmetic import Problem, Writer
from subnetworks.mini.datasets import Row, conversation
from subnetworks.mini.settings import ForeignSettings

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# Someone who is never right: hasty or with a slip.
_WRONG = Writer(right=0.0, hasty=0.5)


def words(number: int) -> str:
    """A number from 0 to 199 in words: `one hundred and four`, `eighty-five`."""
    if number >= 100:
        rest = number % 100
        return "one hundred" + (f" and {words(rest)}" if rest else "")
    if number < 20:
        return _UNITS[number]
    tens, units = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_UNITS[units]}" if units else "")


def demonstrations(settings: ForeignSettings) -> dict[str, list[Row]]:
    """Conversations (`messages`): sums with their right answers, in words."""
    source = random.Random(f"{settings.seed}/foreign_demonstrations")
    rows = [
        {
            "messages": [
                *conversation(problem),
                {"role": "assistant", "content": words(problem.truth)},
            ]
        }
        for problem in _problems(settings.rows, source)
    ]
    return {"train": rows}


def preferences(settings: ForeignSettings) -> dict[str, list[Row]]:
    """`prompt` (messages), and in words `chosen`, the right answer, and `rejected`, a wrong one."""
    source = random.Random(f"{settings.seed}/foreign_preferences")
    rows = []
    for problem in _problems(settings.rows, source):
        wrong = problem.truth
        while wrong == problem.truth:
            wrong = _WRONG.answer(problem, source)
        rows.append(
            {
                "prompt": conversation(problem),
                "chosen": words(problem.truth),
                "rejected": words(wrong),
            }
        )
    return {"train": rows}


def _problems(number: int, source: random.Random) -> list[Problem]:
    return source.choices(arithmetic.problems("+", held_out=False), k=number)
