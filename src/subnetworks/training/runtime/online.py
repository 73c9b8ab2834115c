"""On-policy training with verl: Ray, FSDP2 and vLLM rollouts on the same devices."""

import sys

from subnetworks.core.engines import ON_CPU
from subnetworks.training.algorithms import MODULES
from subnetworks.training.data.rewards import written
from subnetworks.training.runtime.job import START, Command, Job, environment
from subnetworks.training.runtime.verl_options import engine, lora, model, optimiser, resume, write
from subnetworks.training.settings import OnlineSettings


def command(job: Job) -> Command:
    """The processes that train this run."""
    machine, on_cpu = job.machine, job.machine.kind == "cpu"
    file = write(job, options(job))
    return Command(
        [sys.executable, "-m", START, "subnetworks.training.runtime.online_main", str(file)],
        environment(job)
        | {
            "RAY_DEDUP_LOGS": "0",
            # Ray's workers do the work; they need not give way to whoever else is busy.
            "RAY_worker_niceness": "0",
            # An idle worker for every logical core would cost more than it saves.
            "RAY_prestart_worker_first_driver": "0",
        }
        | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **ON_CPU} if on_cpu else {})
        # Where Ray is started before its driver, it does not find out by itself that there is one.
        | ({"RAY_AUTH_MODE": "token"} if machine.nodes > 1 else {}),
    )


def options(job: Job) -> dict[str, object]:
    """What a run asks of verl."""
    settings, machine = job.settings, job.machine
    assert isinstance(settings, OnlineSettings)
    on_cpu = machine.kind == "cpu"
    length = settings.longest_sequence
    actor = "actor_rollout_ref.actor"
    rollout, reference = "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
    micro = job.sequences_at_once
    asked: dict[str, object] = {
        **MODULES[settings.algorithm].options(job),
        "algorithm.use_kl_in_reward": settings.kl == "reward",
        "algorithm.kl_ctrl.kl_coef": settings.kl_coef,
        "data.train_files": str(job.train_file),
        "data.val_files": str(job.validation_file if settings.validate_every else job.train_file),
        "data.seed": settings.seed,
        "data.train_batch_size": settings.batch_size,
        "data.max_prompt_length": settings.max_prompt_length,
        "data.max_response_length": settings.max_response_length,
        **model("actor_rollout_ref.model", job),
        **lora("actor_rollout_ref.model", settings),
        f"{actor}.strategy": "fsdp2",
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"+{actor}.fsdp_config.mixed_precision": job.mixed_precision,
        f"{actor}.fsdp_config.seed": settings.seed,
        f"{actor}.data_loader_seed": settings.seed,
        **engine(f"{actor}.fsdp_config", job),
        **optimiser(f"{actor}.optim", job),
        f"{actor}.ppo_mini_batch_size": settings.batch_size // settings.updates_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": micro,
        f"{actor}.clip_ratio": settings.clip_ratio,
        f"{actor}.clip_ratio_low": settings.clip_ratio,
        f"{actor}.clip_ratio_high": settings.clip_ratio,
        f"{actor}.use_kl_loss": settings.kl == "loss",
        f"{actor}.kl_loss_coef": settings.kl_coef,
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
        f"{rollout}.tensor_model_parallel_size": machine.tensor_parallel,
        f"{rollout}.max_model_len": length,
        f"{rollout}.max_num_seqs": min(256, settings.sequences_a_step),
        f"{rollout}.max_num_batched_tokens": max(8192, length),
        f"{rollout}.gpu_memory_utilization": machine.memory_share,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": micro,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": _bucket(job),
        f"+{rollout}.engine_kwargs.vllm.worker_extension_cls": (
            "subnetworks.training.engine.platform_cpu.vllm_worker.CpuWorkerExtension"
            if on_cpu
            else "subnetworks.training.rollout.weights.WorkerExtension"
        ),
        "+subnetworks.reward": written(settings.reward),
        "+subnetworks.steps": job.only_steps or settings.steps,
        "+subnetworks.validate_every": settings.validate_every,
        "+subnetworks.chat_template": settings.chat_template,
        "+subnetworks.updates_per_step": settings.updates_per_step,
        "trainer.device": machine.kind,
        "trainer.nnodes": machine.nodes,
        "trainer.n_gpus_per_node": machine.devices,
        "trainer.logger": ["file"],
        "trainer.project_name": "subnetworks",
        "trainer.experiment_name": settings.algorithm,
        "trainer.default_local_dir": str(job.state),
        "trainer.total_epochs": settings.steps,
        "trainer.total_training_steps": settings.steps,
        "trainer.save_freq": 0 if job.gradients else settings.steps_between_saves,
        "trainer.max_actor_ckpt_to_keep": 2,
        **resume("trainer", job),
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init._temp_dir": str(job.scratch / "ray"),
        "+subnetworks.nodes": machine.nodes,
        "+subnetworks.one_process": on_cpu and machine.ranks == 1,
    }
    if machine.tokens_at_once is not None:
        asked |= {
            f"{actor}.use_dynamic_bsz": True,
            f"{actor}.ppo_max_token_len_per_gpu": machine.tokens_at_once,
        }
    if on_cpu:
        asked |= {
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
    return asked


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
