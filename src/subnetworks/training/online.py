"""On-policy training with verl: Ray, FSDP2 and vLLM rollouts on the same devices."""

import sys

from subnetworks.checkpoints.manifest import trusts
from subnetworks.training.job import START, Command, Job, environment, override
from subnetworks.training.rewards import written
from subnetworks.training.settings import OnlineSettings, PpoSettings, PrimeSettings
from subnetworks.training.sft import optimiser, resume


def command(job: Job) -> Command:
    """The processes that train this run."""
    settings, machine = job.settings, job.machine
    assert isinstance(settings, OnlineSettings)
    on_cpu = machine.kind == "cpu"
    length = settings.longest_sequence
    model, actor = "actor_rollout_ref.model", "actor_rollout_ref.actor"
    rollout, reference = "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
    micro = job.sequences_at_once
    overrides: dict[str, object] = {
        "hydra.run.dir": job.state / "hydra",
        "hydra.output_subdir": None,
        **ESTIMATORS[settings.algorithm](job),
        "algorithm.use_kl_in_reward": settings.kl == "reward",
        "algorithm.kl_ctrl.kl_coef": settings.kl_coefficient,
        "data.train_files": job.train_file,
        "data.val_files": job.train_file,
        "data.seed": settings.seed,
        "data.train_batch_size": settings.batch_size,
        "data.max_prompt_length": settings.max_prompt_length,
        "data.max_response_length": settings.max_response_length,
        **model_section(model, job),
        f"{actor}.strategy": "fsdp2",
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"+{actor}.fsdp_config.mixed_precision": job.mixed_precision,
        f"{actor}.fsdp_config.seed": settings.seed,
        f"{actor}.data_loader_seed": settings.seed,
        **optimiser(f"{actor}.optim", job),
        f"{actor}.ppo_mini_batch_size": settings.batch_size // settings.updates_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": micro,
        f"{actor}.clip_ratio": settings.clip_ratio,
        f"{actor}.clip_ratio_low": settings.clip_ratio,
        f"{actor}.clip_ratio_high": settings.clip_ratio,
        f"{actor}.use_kl_loss": settings.kl == "loss",
        f"{actor}.kl_loss_coef": settings.kl_coefficient,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra"],
        f"{reference}.log_prob_micro_batch_size_per_gpu": micro,
        f"{reference}.use_torch_compile": False,
        f"{reference}.fsdp_config.use_torch_compile": False,
        f"+{reference}.fsdp_config.mixed_precision": job.mixed_precision,
        f"{rollout}.name": "vllm",
        f"{rollout}.dtype": job.arithmetic.products,
        f"{rollout}.seed": settings.seed,
        f"{rollout}.n": settings.samples_per_prompt,
        f"{rollout}.temperature": settings.temperature,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.max_model_len": length,
        f"{rollout}.max_num_seqs": min(256, settings.sequences_a_step),
        f"{rollout}.max_num_batched_tokens": max(8192, length),
        f"{rollout}.gpu_memory_utilization": machine.memory_share,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": micro,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": _bucket(job),
        f"+{rollout}.engine_kwargs.vllm.worker_extension_cls": (
            "subnetworks.training.platform_cpu.vllm_worker.CpuWorkerExtension"
            if on_cpu
            else "subnetworks.training.rollout.WorkerExtension"
        ),
        "+subnetworks.reward": written(settings.reward),
        "+subnetworks.updates_per_step": settings.updates_per_step,
        "trainer.device": machine.kind,
        "trainer.nnodes": machine.nodes,
        "trainer.n_gpus_per_node": machine.devices,
        "trainer.logger": ["file"],
        "trainer.project_name": "subnetworks",
        "trainer.experiment_name": settings.algorithm,
        "trainer.default_local_dir": job.state,
        "trainer.total_epochs": settings.steps,
        "trainer.total_training_steps": settings.steps,
        "trainer.save_freq": settings.steps_between_saves,
        "trainer.max_actor_ckpt_to_keep": 2,
        **resume("trainer", job),
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init._temp_dir": job.scratch / "ray",
        "+subnetworks.nodes": machine.nodes,
        "+subnetworks.one_process": on_cpu and machine.ranks == 1,
    }
    if on_cpu:
        overrides |= {
            # vLLM keeps its weights and cache: there is no device memory to hand over.
            f"{rollout}.enforce_eager": True,
            f"{rollout}.free_cache_engine": False,
            f"+{rollout}.enable_sleep_mode": False,
            # The model runs inside vLLM's engine: one process less to start, and to wait for in a
            # spin (vLLM honours this on a CPU only with VLLM_ENABLE_V1_MULTIPROCESSING=0).
            f"+{rollout}.engine_kwargs.vllm.distributed_executor_backend": "uni",
            f"+{rollout}.engine_kwargs.vllm.kv_cache_memory_bytes": _cache_bytes(job),
            # Logical resources: many small processes share few cores.
            "ray_kwargs.ray_init.num_cpus": 16 + machine.devices,
            "+ray_kwargs.ray_init.num_gpus": machine.devices,
            "+ray_kwargs.ray_init.object_store_memory": 256 << 20,
        }
    arguments = [override(key, value) for key, value in overrides.items()]
    return Command(
        [sys.executable, "-m", START, "subnetworks.training.online_main", *arguments],
        environment(job)
        | {
            "RAY_DEDUP_LOGS": "0",
            # Ray's workers do the work; they need not give way to whoever else is busy.
            "RAY_worker_niceness": "0",
            # An idle worker for every logical core would cost more than it saves.
            "RAY_prestart_worker_first_driver": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if on_cpu else {})
        # Where Ray is started before its driver, it does not find out by itself that there is one.
        | ({"RAY_AUTH_MODE": "token"} if machine.nodes > 1 else {}),
    )


def model_section(section: str, job: Job) -> dict[str, object]:
    """verl's section of a model that starts as the init."""
    return {
        f"{section}.path": job.init,
        f"{section}.external_lib": "subnetworks.training.masked",
        f"{section}.use_remove_padding": job.machine.attention == "flash_attention_2",
        f"{section}.enable_gradient_checkpointing": job.machine.kind == "cuda",
        f"+{section}.override_config.attn_implementation": job.machine.attention,
        **({f"++{section}.trust_remote_code": True} if trusts(job.init) else {}),
    }


def _grpo(job: Job) -> dict[str, object]:
    return {"algorithm.adv_estimator": "grpo", "trainer.v1.trainer_mode": "subnetworks"}


def _raft_plus_plus(job: Job) -> dict[str, object]:
    return {
        "algorithm.adv_estimator": "raft++",
        "critic.enable": False,
        "trainer.v1.trainer_mode": "subnetworks",
    }


def _ppo(job: Job) -> dict[str, object]:
    settings = job.settings
    assert isinstance(settings, PpoSettings)
    return {
        "algorithm.adv_estimator": "gae",
        "trainer.v1.trainer_mode": "subnetworks",
        "algorithm.gamma": settings.gamma,
        "algorithm.lam": settings.lam,
        **model_section("critic.model", job),
        "critic.strategy": "fsdp2",
        "critic.fsdp.use_torch_compile": False,
        "+critic.fsdp.mixed_precision": job.mixed_precision,
        "critic.fsdp.seed": settings.seed,
        "critic.data_loader_seed": settings.seed,
        # Whole, whatever the policy's mask, unless the settings say otherwise.
        **optimiser("critic.optim", job, settings.critic_learning_rate, policy=False),
        "critic.ppo_micro_batch_size_per_gpu": job.sequences_at_once,
        "+critic.fsdp.use_dynamic_bsz": False,
        "+critic.fsdp.micro_batch_size_per_gpu": job.sequences_at_once,
        "+critic.fsdp.infer_micro_batch_size_per_gpu": job.sequences_at_once,
        "critic.cliprange_value": settings.clip_value,
        "critic.checkpoint.save_contents": ["model", "optimizer", "extra"],
    }


def _prime(job: Job) -> dict[str, object]:
    settings = job.settings
    assert isinstance(settings, PrimeSettings)
    section = "actor_rollout_ref.reward_model"
    return {
        "algorithm.adv_estimator": "prime",
        "critic.enable": False,
        "trainer.v1.trainer_mode": "subnetworks_prime",
        f"+{section}.beta": settings.beta,
        # Whole, whatever the policy's mask, unless the settings say otherwise.
        f"+{section}.optim.lr": settings.reward_learning_rate,
        f"+{section}.optim.weight_decay": settings.reward_weight_decay,
        f"+{section}.optim.clip_grad": settings.reward_clip_gradient or 1e30,
        f"+{section}.optim.override_optimizer_config.subnetworks": job.engine_beside,
    }


# What an algorithm needs beyond the shared settings.
ESTIMATORS = {"grpo": _grpo, "raft_plus_plus": _raft_plus_plus, "ppo": _ppo, "prime": _prime}


def _cache_bytes(job: Job) -> int:
    """Memory of vLLM's cache on a CPU: twice what a step's sequences need, up to 4 GiB.

    vLLM hands out 128 tokens at a time.
    """
    settings = job.settings
    assert isinstance(settings, OnlineSettings)
    tokens = -(-settings.longest_sequence // 128) * 128 * min(256, settings.sequences_a_step)
    width = {"bfloat16": 2, "float32": 4}[job.arithmetic.products]
    needed = 2 * tokens * job.cached_entries * width
    return min(4 << 30, max(64 << 20, needed)) if job.cached_entries else 1 << 30


def _bucket(job: Job) -> int:
    """MiB of the buffer through which weights reach vLLM: it must hold the largest tensor, fp32."""
    return max(64, (4 * job.largest_tensor >> 20) + 1)
