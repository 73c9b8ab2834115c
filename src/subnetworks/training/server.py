"""Answers from vLLM behind verl's rollout server: a step's at once, each from its own seed."""

import asyncio
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from subnetworks.training.sampling import Request


class Server(vLLMHttpServer):
    """verl's rollout server, which takes all requests of a step in one call.

    On a CPU the engine runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): it is given all
    requests before its first step, so how they are batched, and with that the rounding of their
    logits, depends on nothing but the requests.
    """

    async def run_server(self, args: Any) -> None:
        """Start the engine; the HTTP server only where verl's own engine is used."""
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            await super().run_server(args)
            return
        from vllm.engine.arg_utils import AsyncEngineArgs

        config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
        self.engine = await InProcessEngine.start(config)
        words = len(self.model_config.tokenizer)
        await self.engine.collective_rpc(
            "monkey_patch_model", kwargs={"vocab_size": words, "banned_token_ids": []}
        )
        self._server_port = 0

    async def answers(self, requests: Sequence[Request], temperature: float) -> list[list[int]]:
        """Tokens of the answer to each request, in order."""
        length = self.config.response_length
        if isinstance(self.engine, InProcessEngine):
            return await self.engine.answers(requests, temperature, length)
        outputs = await asyncio.gather(
            *(
                self.generate(
                    prompt_ids=request.prompt,
                    sampling_params={
                        "temperature": temperature,
                        "max_tokens": length,
                        "seed": request.seed,
                    },
                    request_id=uuid.uuid4().hex,
                )
                for request in requests
            )
        )
        return [list(output.token_ids) for output in outputs]


class InProcessEngine:
    """vLLM's synchronous engine with the face of its asynchronous one, on a thread of its own."""

    def __init__(self, engine: Any, thread: ThreadPoolExecutor) -> None:
        self._engine, self._thread = engine, thread

    @classmethod
    async def start(cls, config: Any) -> "InProcessEngine":
        """An engine that is ready; only its thread ever touches it."""
        from vllm.v1.engine.llm_engine import LLMEngine

        thread = ThreadPoolExecutor(max_workers=1)
        make = partial(LLMEngine.from_vllm_config, config, disable_log_stats=True)
        return cls(await asyncio.get_running_loop().run_in_executor(thread, make), thread)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            call = partial(method, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)

        return call

    async def wait_for_requests_to_drain(self) -> None:
        """Nothing is ever left unfinished."""

    async def answers(
        self, requests: Sequence[Request], temperature: float, length: int
    ) -> list[list[int]]:
        """Tokens of the answer to each request, in order."""
        call = partial(self._answers, requests, temperature, length)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _answers(
        self, requests: Sequence[Request], temperature: float, length: int
    ) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        for index, request in enumerate(requests):
            self._engine.add_request(
                str(index),
                TokensPrompt(prompt_token_ids=request.prompt),
                SamplingParams(
                    temperature=temperature,
                    max_tokens=length,
                    seed=request.seed,
                    detokenize=False,
                ),
            )
        answers: dict[int, list[int]] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    answers[int(output.request_id)] = list(output.outputs[0].token_ids)
        return [answers[index] for index in range(len(requests))]


class Replica(vLLMReplica):
    """verl's replica with the server above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)
