"""A step's answers from vLLM's synchronous engine, each from its own seed."""

from collections.abc import Sequence
from typing import Any

from subnetworks.training.rollout.sampling import Request


def answer_all(
    engine: Any, requests: Sequence[Request], temperature: float, length: int
) -> list[list[int]]:
    """Tokens of the answer to each request, in order, `length` at most.

    The engine has all requests before its first step: how they are batched, and with that the
    rounding of their logits, depends on nothing but themselves.
    """
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    for index, request in enumerate(requests):
        engine.add_request(
            str(index),
            TokensPrompt(prompt_token_ids=request.prompt),
            SamplingParams(
                temperature=temperature,
                max_tokens=length,
                seed=request.seed,
                stop_token_ids=list(request.ends),
                detokenize=False,
            ),
        )
    answers: dict[int, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                answers[int(output.request_id)] = list(output.outputs[0].token_ids)
    return [answers[index] for index in range(len(requests))]
