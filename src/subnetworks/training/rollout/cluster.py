"""Where an on-policy run's models lie: in Ray's processes, on any number of devices and nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import ray
from verl.checkpoint_engine import CheckpointEngineManager
from verl.single_controller.ray import RayClassWithInitArgs, RayWorkerGroup
from verl.single_controller.ray.base import create_colocated_worker_cls
from verl.utils.config import omega_conf_to_dataclass

from subnetworks.training.rollout.sampling import Request
from subnetworks.training.rollout.server import Launch, Replica, in_process


class Cluster:
    """Starts verl's workers and vLLM's servers, and talks with them."""

    def __init__(self, config: Any, pools: Any) -> None:
        self.config = config
        pools.create_resource_pool()
        self._pools = pools
        # Models are loaded while vLLM starts, except where both measure the same device's memory.
        self._launch = Launch(self._replicas()) if in_process() else None

    def workers(self, pool: Any, classes: Mapping[str, tuple[Any, dict[str, Any]]]) -> Any:
        """The worker groups, by name, of (class, arguments), side by side on the pool's devices."""
        given = {
            name: RayClassWithInitArgs(
                cls=cls if hasattr(cls, "__ray_actor_class__") else ray.remote(cls), **arguments
            )
            for name, (cls, arguments) in classes.items()
        }
        group = RayWorkerGroup(
            resource_pool=self._pools.get_resource_pool(pool),
            ray_cls_with_init=create_colocated_worker_cls(class_dict=given),
            device_name=self.config.trainer.device,
        )
        return group.spawn(prefix_set=given.keys())

    def start_sampler(self, policy: Any) -> None:
        """Wait for vLLM, which is sent the weights of the worker group `policy` from then on."""
        rollout = self.config.actor_rollout_ref.rollout
        replicas = (self._launch or Launch(self._replicas(), policy)).replicas
        self._weights = CheckpointEngineManager(
            config=omega_conf_to_dataclass(rollout.checkpoint_engine),
            actor_wg=policy,
            replicas=replicas,
        )
        self._servers = [replica.server_handle for replica in replicas]
        self._rest()

    def answers(self, requests: Sequence[Request], temperature: float) -> list[list[int]]:
        """Tokens of the answer to each request, in order."""
        shares = numpy.array_split(numpy.arange(len(requests)), len(self._servers))
        given = [
            server.answers.remote([requests[index] for index in share], temperature)
            for server, share in zip(self._servers, shares, strict=True)
        ]
        answers = [answer for share in ray.get(given) for answer in share]
        self._rest()
        return answers

    def send_weights(self, step: int) -> None:
        """Send the policy's weights to vLLM."""
        self._weights.update_weights(step)

    def _rest(self) -> None:
        if self.config.actor_rollout_ref.rollout.free_cache_engine:
            self._weights.sleep_replicas()

    def _replicas(self) -> list[Replica]:
        config = self.config.actor_rollout_ref
        devices = self.config.trainer.n_gpus_per_node
        everywhere = devices * self.config.trainer.nnodes
        return [
            Replica(
                replica_rank=rank,
                config=config.rollout,
                model_config=config.model,
                gpus_per_node=devices,
            )
            for rank in range(everywhere // config.rollout.tensor_model_parallel_size)
        ]
