"""An on-policy run's first process: the driver of the training, and all of it on one CPU device."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from subnetworks.training.algorithms import MODULES
from subnetworks.training.runtime.nodes import ray_cluster
from subnetworks.training.runtime.verl_options import load


def main() -> None:
    """Train with verl's own configuration and the file that the command line names."""
    config = load("ppo_trainer", sys.argv[1])
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    if config.subnetworks.one_process:
        from subnetworks.training.rollout.one_process import prepare

        prepare(get_ppo_ray_runtime_env(config)["env_vars"])
        _register()
        _train(config)
        return
    import ray

    start = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    start.pop("runtime_env", None)
    with ExitStack() as stack:
        beside = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        trainers = beside.submit(_register)  # Ray's processes come up meanwhile
        if config.subnetworks.nodes > 1:
            options = [
                f"--{name.replace('_', '-')}={start[name]}"
                for name in ("num_cpus", "num_gpus", "object_store_memory")
                if start.get(name) is not None
            ]
            cluster = ray_cluster(config.subnetworks.nodes, options, Path(start["_temp_dir"]))
            start = {"address": stack.enter_context(cluster)}
        ray.init(**start, runtime_env=get_ppo_ray_runtime_env(config))
        trainers.result()
        _train(config)


def _register() -> None:
    """Make our trainers known to verl."""
    from subnetworks.training.runtime import online_trainer  # noqa: F401

    for module in MODULES.values():
        if hasattr(module, "register"):
            module.register()


def _train(config: Any) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    OmegaConf.resolve(config)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    trainer.init()
    trainer.fit()
