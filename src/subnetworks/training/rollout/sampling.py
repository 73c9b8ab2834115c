"""What is sampled in one step of an on-policy run, and from which seeds."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from subnetworks.training.data import rewards


@dataclass(frozen=True)
class Request:
    """One answer to be sampled: the prompt's tokens, the seed of the draw, and the tokens that end
    it."""

    prompt: list[int]
    seed: int
    ends: tuple[int, ...] = ()


def request_seed(*place: int) -> int:
    """The seed of one draw, from (the run's seed, step, prompt, sample): 63 bits, no two alike."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def requests(
    prompts: Sequence[list[int]], samples: int, seed: int, step: int, ends: Collection[int] = ()
) -> list[Request]:
    """`samples` requests for each prompt, one prompt's side by side."""
    stops = tuple(sorted(ends))
    return [
        Request(prompt, request_seed(seed, step, row, sample), stops)
        for row, prompt in enumerate(prompts)
        for sample in range(samples)
    ]


def endings(
    answers: Sequence[Sequence[int]], ends: Collection[int], longest: int
) -> list[rewards.Ending]:
    """How each answer ended, from its tokens: cut off if it has all that were allowed and the last
    is not among `ends`."""
    return [
        rewards.Ending(len(ids) >= longest and ids[-1] not in ends, len(ids) / longest)
        for ids in answers
    ]
