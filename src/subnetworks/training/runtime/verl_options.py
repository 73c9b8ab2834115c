"""What is asked of verl: options by their dotted names, and the YAML file that it reads them from.

A name that begins with "+" is none of verl's own configuration, but of ours, or of a part that verl
hands on.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import trusts
from subnetworks.core.errors import UserError
from subnetworks.core.files import write_text
from subnetworks.core.validation import shown
from subnetworks.training.runtime.job import Job
from subnetworks.training.settings import Settings

Options = Mapping[str, object]
FILE = "verl.yaml"
_NUMBER = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+$")


def model(section: str, job: Job) -> dict[str, object]:
    """verl's section of a model that starts as the init."""
    return {
        f"{section}.path": str(job.init),
        f"{section}.external_lib": "subnetworks.training.engine.masked",
        f"{section}.use_remove_padding": job.machine.attention == "flash_attention_2",
        f"{section}.enable_gradient_checkpointing": (
            job.machine.kind == "cuda"
            if job.machine.gradient_checkpointing is None
            else job.machine.gradient_checkpointing
        ),
        f"+{section}.override_config.attn_implementation": job.machine.attention,
        # The init's own: verl takes the tokenizer's, and its end for want of another, whose
        # embedding would then get no gradient.
        f"+{section}.override_config.pad_token_id": _pad_token(job.init),
        **({f"+{section}.trust_remote_code": True} if trusts(job.init) else {}),
    }


def lora(section: str, settings: Settings) -> dict[str, object]:
    """verl's section of a model with the run's adapters, if it has any.

    A sampler is sent them merged into the weights, not as adapters of its own.
    """
    if not settings.lora_rank:
        return {}
    return {
        f"{section}.lora_rank": settings.lora_rank,
        f"{section}.lora_alpha": settings.lora_alpha,
        f"{section}.target_modules": "all-linear",
        f"{section}.lora.merge": True,
        # Off-policy trainers seed their process themselves.
        **({f"+{section}.lora.seed": settings.seed} if settings.kind == "online" else {}),
    }


def engine(section: str, job: Job) -> dict[str, object]:
    """What verl's sections of an engine say of its memory."""
    return {
        f"{section}.param_offload": job.machine.offload_weights,
        f"{section}.optimizer_offload": job.machine.offload_optimiser,
    }


def _pad_token(init: Path) -> int | None:
    """The padding token of a checkpoint's config, whose embedding is not trained; None is none."""
    file = init / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found: int | None = config.get("pad_token_id")
    return found


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
        f"{section}.clip_grad": settings.max_grad_norm or 1e30,
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
        f"{section}.resume_from_path": str(job.saved(job.resume)),
    }


def with_further(options: Options, further: Mapping[str, Any]) -> dict[str, Any]:
    """verl's configuration, nested: our options, and those that a run passes on verbatim (`verl:`).

    Raises:
        UserError: a further option sets what one of ours does, to another value.
    """
    ours = {name.removeprefix("+"): value for name, value in options.items()}
    theirs = dict(flat(further))
    for name, value in theirs.items():
        for own in ours:
            same = name == own
            if same and value == ours[own]:
                continue
            if same or name.startswith(f"{own}.") or own.startswith(f"{name}."):
                raise UserError(
                    f"settings: verl: {name!r} is set by the run itself ({own}: "
                    f"{shown(ours[own])}); leave it out, and set the run's own key"
                )
    return nested({**theirs, **ours})


def flat(options: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Options by their dotted names, however they are nested."""
    found: list[tuple[str, Any]] = []
    for name, value in options.items():
        inside = isinstance(value, Mapping) and value
        found += flat(value, f"{above}{name}.") if inside else [(f"{above}{name}", value)]
    return found


def nested(options: Options) -> dict[str, Any]:
    """Options as YAML nests them."""
    whole: dict[str, Any] = {}
    for name, value in options.items():
        *above, last = name.split(".")
        place = whole
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return whole


def write(job: Job, options: Options) -> Path:
    """Write what a run asks of verl into its state; returns the file."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """PyYAML's, which also quotes text that others than itself read as a number (1e-6)."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, None)
    file = job.state / FILE
    whole = with_further(_literal(options), job.settings.verl)
    text = yaml.dump(whole, Dumper=Dumper, sort_keys=False)
    write_text(file, text)
    return file


def _literal(value: Any) -> Any:
    """Our values with what OmegaConf would take for a reference marked as text."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def load(name: str, file: str) -> Any:
    """verl's configuration of that name, with what `write` wrote."""
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose(name)
    OmegaConf.set_struct(config, False)
    return OmegaConf.merge(config, OmegaConf.load(file))
