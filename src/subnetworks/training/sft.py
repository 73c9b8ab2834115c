"""Supervised finetuning with verl's SFT trainer."""

from subnetworks.checkpoints.manifest import trusts
from subnetworks.training.job import Command, Job, distributed, environment, override
from subnetworks.training.settings import SftSettings


def command(job: Job) -> Command:
    """The processes that train this run."""
    settings = job.settings
    assert isinstance(settings, SftSettings)
    overrides = {
        "hydra.run.dir": job.state / "hydra",
        "hydra.output_subdir": None,
        "data.train_files": job.train_file,
        "data.train_batch_size": settings.batch_size,
        "data.micro_batch_size_per_gpu": job.sequences_at_once,
        "data.use_dynamic_bsz": False,
        "data.max_length": settings.max_length,
        "+data.too_long": settings.too_long,
        "data.num_workers": 0,
        "data.custom_cls.path": "pkg://subnetworks.training.sft_main",
        "data.custom_cls.name": "ConversationDataset",
        "model.path": job.init,
        "model.external_lib": "subnetworks.training.masked",
        "model.use_remove_padding": job.machine.attention == "flash_attention_2",
        "model.enable_gradient_checkpointing": job.machine.kind == "cuda",
        "+model.override_config.attn_implementation": job.machine.attention,
        **({"++model.trust_remote_code": True} if trusts(job.init) else {}),
        "engine.strategy": "fsdp2",
        "engine.use_torch_compile": False,
        "+engine.mixed_precision": job.mixed_precision,
        "engine.seed": settings.seed,
        **optimiser("optim", job),
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
        "trainer.seed": settings.seed,
        "trainer.logger": ["file"],
        "trainer.project_name": "subnetworks",
        "trainer.experiment_name": "sft",
        "trainer.default_local_dir": job.state,
        "trainer.device": job.machine.kind,
        "trainer.n_gpus_per_node": job.machine.devices,
        "trainer.total_epochs": settings.steps,
        "trainer.total_training_steps": settings.steps,
        "trainer.save_freq": settings.steps_between_saves,
        "trainer.test_freq": -1,
        "trainer.max_ckpt_to_keep": 2,
        **resume("trainer", job),
    }
    arguments = [override(key, value) for key, value in overrides.items()]
    return Command(distributed(job, "subnetworks.training.sft_main", *arguments), environment(job))


def optimiser(
    section: str, job: Job, learning_rate: float | None = None, policy: bool = True
) -> dict[str, object]:
    """verl's optimiser section: AdamW; schedule and mask go to our engine.

    A model beside the policy (`policy` false) has its own learning rate.
    """
    settings = job.settings
    return {
        f"{section}.lr": settings.learning_rate if learning_rate is None else learning_rate,
        f"{section}.weight_decay": settings.weight_decay,
        f"{section}.betas": list(settings.betas),
        f"{section}.clip_grad": settings.clip_gradient or 1e30,
        f"{section}.total_training_steps": settings.steps,
        f"+{section}.override_optimizer_config.subnetworks": (
            job.engine if policy else job.engine_beside
        ),
    }


def resume(section: str, job: Job) -> dict[str, object]:
    """verl's resume section: the state that was checked, and no other."""
    if not job.resume:
        return {f"{section}.resume_mode": "disable"}
    return {
        f"{section}.resume_mode": "resume_path",
        f"{section}.resume_from_path": job.saved(job.resume),
    }
