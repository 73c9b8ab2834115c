"""Pairs of answers to one prompt, made of single answers of which it is known which are right."""

import random
from collections.abc import Sequence

from subnetworks.training.data.files import Row
from subnetworks.training.data.schemas import asked


def pairs(answers: Sequence[Row], seed: int) -> tuple[list[Row], int]:
    """Each right answer beside a wrong one to the same prompt, drawn from `seed`.

    Args:
        answers: rows with `prompt` (messages), `answer` (text) and `label` (whether it is right).

    Returns:
        Rows with `prompt`, `chosen` and `rejected`, in the order of the right answers, and how many
        of these have no wrong answer beside them.
    """
    wrong: dict[str, list[str]] = {}
    for row in answers:
        if not row["label"]:
            wrong.setdefault(asked(row), []).append(row["answer"])
    generator = random.Random(f"{seed}/judged")
    made, alone = [], 0
    for row in answers:
        if not row["label"]:
            continue
        others = [text for text in wrong.get(asked(row), ()) if text != row["answer"]]
        if others:
            rejected = generator.choice(others)
            rest = {name: row[name] for name in row if name not in ("answer", "label")}
            made.append({**rest, "chosen": row["answer"], "rejected": rejected})
        else:
            alone += 1
    return made, alone
