"""Supervised finetuning with verl's SFT trainer."""

from subnetworks.training.runtime.job import Command, Job, distributed, environment
from subnetworks.training.runtime.verl_options import engine, lora, model, optimiser, resume, write
from subnetworks.training.settings import OfflineSettings


def command(job: Job) -> Command:
    """The processes that train this run."""
    file = write(job, options(job))
    return Command(
        distributed(job, "subnetworks.training.runtime.sft_main", str(file)), environment(job)
    )


def options(job: Job) -> dict[str, object]:
    """What a run asks of verl."""
    settings = job.settings
    assert isinstance(settings, OfflineSettings)
    tokens = job.machine.tokens_at_once
    return {
        "data.train_files": str(job.train_file),
        "data.train_batch_size": settings.batch_size,
        "data.micro_batch_size_per_gpu": job.sequences_at_once,
        "data.use_dynamic_bsz": tokens is not None,
        **({} if tokens is None else {"data.max_token_len_per_gpu": tokens}),
        "data.max_length": settings.max_length,
        "data.truncation": settings.truncation,
        "data.num_workers": 0,
        "+data.validation_file": str(job.validation_file) if settings.validate_every else None,
        "+subnetworks.validate_every": settings.validate_every,
        "+data.chat_template": settings.chat_template,
        "data.custom_cls.path": "pkg://subnetworks.training.runtime.sft_main",
        "data.custom_cls.name": "ConversationDataset",
        **model("model", job),
        **lora("model", settings),
        **engine("engine", job),
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
        "trainer.default_local_dir": str(job.state),
        "trainer.device": job.machine.kind,
        "trainer.n_gpus_per_node": job.machine.devices,
        "trainer.total_epochs": settings.steps,
        "trainer.total_training_steps": settings.steps,
        "trainer.save_freq": settings.steps_between_saves,
        "trainer.test_freq": -1,
        "trainer.max_ckpt_to_keep": 2,
        **resume("trainer", job),
    }
