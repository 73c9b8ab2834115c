"""Answers from vLLM behind verl's rollout server: a step's at once, each from its own seed."""

import asyncio
import os
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from verl.workers.rollout.replica import RolloutMode
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from subnetworks.training.rollout.answering import answer_all
from subnetworks.training.rollout.sampling import Request


def in_process() -> bool:
    """Whether vLLM's engine runs in its server's process: on a CPU."""
    return os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


class Server(vLLMHttpServer):
    """verl's rollout server, which takes all requests of a step in one call.

    On a CPU the engine runs in this process: it is given all requests before its first step, so how
    they are batched, and with that the rounding of their logits, depends on nothing but themselves.
    """

    async def run_server(self, args: Any) -> None:
        """Start the engine; the HTTP server only where verl's own engine is used."""
        if not in_process():
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
                        "stop_token_ids": list(request.ends),
                    },
                    request_id=uuid.uuid4().hex,
                )
                for request in requests
            )
        )
        return [list(output.token_ids) for output in outputs]

    async def load_weights(self, weights: list[tuple[str, Any]]) -> None:
        """Take (name, tensor) as the model's, and forget what older weights left in the cache."""
        await self.engine.collective_rpc("load_named", args=(weights,))
        await self.clear_kv_cache()


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
        call = partial(answer_all, self._engine, requests, temperature, length)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


class Replica(vLLMReplica):
    """verl's replica with the server above, which on a CPU need not wait for the trainer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)

    async def launch_servers(self) -> None:
        """Start the server, and wait until it is ready."""
        if not in_process():
            await super().launch_servers()
            return
        self._server_handle = self.server_class.options(
            name=f"vllm_server_{self.replica_rank}_0", max_concurrency=self.max_concurrency
        ).remote(
            config=self.config,
            model_config=self.model_config,
            rollout_mode=RolloutMode.HYBRID,
            workers=[],
            replica_rank=self.replica_rank,
            node_rank=0,
            gpus_per_node=1,
            nnodes=1,
            cuda_visible_devices="",
        )
        self.servers = [self._server_handle]
        await self._server_handle.launch_server.remote()


class Launch(threading.Thread):
    """Starts replicas beside whatever else is being done; `replicas` waits for them."""

    def __init__(self, replicas: Sequence[Replica], workers: Any = None) -> None:
        super().__init__()
        self._replicas, self._workers = list(replicas), workers
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        """See `threading.Thread`."""

        async def every() -> None:
            if self._workers is None:
                await asyncio.gather(*(replica.launch_servers() for replica in self._replicas))
            else:
                await asyncio.gather(
                    *(replica.init_hybrid(self._workers) for replica in self._replicas)
                )

        try:
            asyncio.run(every())
        except BaseException as error:
            self._failure = error

    @property
    def replicas(self) -> list[Replica]:
        """The replicas, ready; raises what kept one from starting."""
        self.join()
        if self._failure:
            raise self._failure
        return self._replicas
