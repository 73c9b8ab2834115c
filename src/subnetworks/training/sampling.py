"""What is sampled in one step of an on-policy run, and from which seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from subnetworks.training import rewards


@dataclass(frozen=True)
class Request:
    """One answer to be sampled: the prompt's tokens and the seed of the draw."""

    prompt: list[int]
    seed: int


def request_seed(*place: int) -> int:
    """The seed of one draw, from (the run's seed, step, prompt, sample): 63 bits, no two alike."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def requests(prompts: Sequence[list[int]], samples: int, seed: int, step: int) -> list[Request]:
    """`samples` requests for each prompt, one prompt's side by side."""
    return [
        Request(prompt, request_seed(seed, step, row, sample))
        for row, prompt in enumerate(prompts)
        for sample in range(samples)
    ]


def score(
    name: str, answers: Sequence[str], truths: Sequence[str], seed: int, step: int
) -> tuple[list[float], list[float]]:
    """What each answer is rewarded with, and whether it is right.

    The two differ only for the reward "random". Raises `UserError` as `rewards.checked` does.
    """
    function = rewards.load(name)
    right = [
        rewards.checked(function, answer, truth)
        for answer, truth in zip(answers, truths, strict=True)
    ]
    if name == "random":
        return [rewards.coin(seed, step, index) for index in range(len(answers))], right
    return right, right
