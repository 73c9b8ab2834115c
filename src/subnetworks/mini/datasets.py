"""Data sets to train on: demonstrations to imitate, problems to be rewarded for."""

import random
from collections.abc import Sequence
from typing import Any

from subnetworks.mini import arithmetic, choices
from subnetworks.mini.arithmetic import TEACHERS, Operation, Problem, boxed
from subnetworks.mini.settings import OPERATIONS, DemonstrationSettings, ProblemSettings

Row = dict[str, Any]
DATA_SOURCE = "mini_addition"


def conversation(problem: Problem) -> list[dict[str, str]]:
    """A problem asked in a chat: one user message such as `37+48=`."""
    return [{"role": "user", "content": problem.text}]


def demonstrations(settings: DemonstrationSettings) -> dict[str, list[Row]]:
    """Conversations (`messages`) in which the hasty `TEACHERS` answer.

    Sums and differences alike, answered `\\boxed{85}`; a share are multiple choice about sums.
    """
    source = random.Random(f"{settings.seed}/demonstrations")
    pools = [arithmetic.problems(operation, held_out=False) for operation in ("+", "-")]
    rows = []
    for _ in range(settings.rows):
        if source.random() < settings.choice_share:
            problem = source.choice(pools[0])
            asked = choices.prompt(problem)
            answer = choices.reasoning(TEACHERS.answer(problem, source))
        else:
            problem = source.choice(source.choice(pools))
            asked = conversation(problem)
            answer = boxed(TEACHERS.answer(problem, source))
        rows.append({"messages": [*asked, {"role": "assistant", "content": answer}]})
    return {"train": rows}


def verifiable(problem: Problem, index: int, split: str) -> Row:
    """A row in the schema that verl's reinforcement learning reads."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": conversation(problem),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(problem.truth)},
        "extra_info": {"index": index, "split": split},
    }


def problems(settings: ProblemSettings) -> dict[str, list[Row]]:
    """Problems of one operation with their right answers: `train`, and `test` of pairs never
    trained on."""
    source = random.Random(f"{settings.seed}/problems")
    operation = OPERATIONS[settings.operation]
    train = source.choices(arithmetic.problems(operation, held_out=False), k=settings.rows)
    test = held_out(settings.test_rows, source, operation)
    return {
        split: [verifiable(problem, index, split) for index, problem in enumerate(drawn)]
        for split, drawn in (("train", train), ("test", test))
    }


def held_out(number: int, source: random.Random, operation: Operation = "+") -> Sequence[Problem]:
    """So many different held-out problems of an operation.

    Raises:
        UserError: there are not that many.
    """
    from subnetworks.core.errors import UserError

    pool = arithmetic.problems(operation, held_out=True)
    if number > len(pool):
        raise UserError(f"settings: {number} held-out problems asked for, only {len(pool)} exist")
    return source.sample(pool, number)
