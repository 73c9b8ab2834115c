"""What a run may be set to: models shared by all algorithms, checked before anything heavy starts.

Each algorithm's own are in `subnetworks.training.algorithms`. Nothing here imports torch or verl:
the workflow reads these models as it plans.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from subnetworks.checkpoints.chat import Named
from subnetworks.core.errors import UserError
from subnetworks.core.precision import Bfloat16, Dtype
from subnetworks.core.schedule import Schedule, warmup_of
from subnetworks.core.validation import (
    Above,
    AtLeastTwo,
    Count,
    Origin,
    Place,
    Positive,
    Rate,
    SettingsModel,
    Share,
    hint,
    parse,
    shown,
    wrong,
)

Kind = Literal["sft", "online", "preference"]
Truncation = Literal["error", "truncate"]
MasterWeights = Literal["float32", "none", "kahan", "stochastic_rounding"]


def _two_numbers(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise wrong(f"expected 2 numbers, got {shown(value)}")
    return tuple(value)


_Beta = Annotated[float, Field(ge=0, lt=1)]


class Settings(SettingsModel):
    """What every algorithm needs.

    An update of the weights is computed from `sequences_an_update` sequences; a step has one update
    unless an algorithm says otherwise.
    """

    kind: ClassVar[Kind] = "sft"
    # What tables call it, if not by its name in capitals.
    title: ClassVar[str] = ""
    # Whether the loss compares the policy with the init, and so holds it to that.
    needs_reference: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {
        "clip_gradient": "max_grad_norm",
        "stored_as": "save_dtype",
        "warmup_share": "warmup_ratio",
    }

    algorithm: str = Field(description="How it is trained.")
    seed: Count = Field(0, description="Of the order of the data, and of sampling.")
    steps: Positive = Field(description="Optimiser steps (instead of epochs).")
    batch_size: Positive = Field(32, description="Examples of one step over all devices.")
    micro_batch_size: Positive | None = Field(
        None, description="Sequences that go through the model at once on one device."
    )
    learning_rate: Rate = Field(description="The peak of the schedule.")
    schedule: Schedule = Field("constant", description="What follows the warm-up.")
    warmup_steps: Count = Field(0, description="Steps of linear warm-up.")
    weight_decay: Rate = Field(0.01, description="AdamW's.")
    betas: Annotated[tuple[_Beta, _Beta], BeforeValidator(_two_numbers)] = Field(
        (0.9, 0.999), description="AdamW's."
    )
    max_grad_norm: Rate = Field(
        1.0, description="Bound of the (masked) gradient's global norm; 0 is none."
    )
    validate_every: Count = Field(
        0,
        description="Measure the data set's validation rows this often, and after the last step "
        "(0: never): loss, and accuracy of preferences; on-policy, accuracy of one sampled answer "
        "each.",
    )
    max_divergence: Above | None = Field(
        10.0,
        description="A run ends as diverged if its loss exceeds this many times the first step's "
        "(at least this), or, on-policy, kl this many nats a token; null: only if a loss, kl or "
        "gradient is no finite number.",
    )
    save_every: Positive | None = Field(
        None, description="Steps between saved states (by default five times a run)."
    )
    optimiser_state: Literal["compact", "dense"] = Field(
        "compact",
        description="Within a mask: AdamW's moments for its entries alone, or for all; "
        "the weights are the same to the bit.",
    )
    trajectory_every: Count = Field(
        0, description="Keep the weights this often, as deltas against the init (0: never)."
    )
    compute_dtype: Dtype = Field(
        "bfloat16",
        description="What forward and backward pass see the weights in (bfloat16 is the paper's "
        "mixed precision); the optimiser keeps float32 unless master_weights says otherwise.",
    )
    # Left out of what is recorded where it is the default, which was the only one.
    master_weights: MasterWeights = Field(
        "float32",
        exclude_if=lambda value: value == "float32",
        description="What AdamW keeps beside the bf16 weights of the forward pass: float32 master "
        "weights and moments; or nothing, weights, gradients and moments being bf16, rounded to "
        "nearest (none), with what rounding takes from the weights kept and added to the next step "
        "(kahan), or the weights rounded at random, right on average (stochastic_rounding). The "
        "policy's alone: critic and reward model keep float32.",
    )
    save_dtype: Dtype = Field(
        "bfloat16",
        description="What the checkpoint at the end is rounded to; float32 keeps the weights as "
        "they were trained.",
    )
    chat_template: Named | None = Field(
        None,
        description="A template by name instead of the checkpoint's own, which the end then has; "
        "for base models, which have none: plain.",
    )
    lora_rank: Count = Field(
        0,
        description="Train adapters of this rank on every linear layer instead of the weights "
        "(LoRA, for comparison; 0: none); the end has them merged.",
    )
    lora_alpha: Positive = Field(16, description="LoRA's: their product's factor, times the rank.")

    verl: dict[str, Any] = Field(
        {}, description="Further options of verl, passed on to it as they are."
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise what a validator raises for values that contradict each other."""
        for name in ("trajectory_every", "validate_every", "warmup_steps"):
            # A run in an experiment may have epochs for steps.
            if self.steps and getattr(self, name) > self.steps:
                raise wrong(f"{name} ({getattr(self, name)}) exceeds steps ({self.steps})", name)
        kept = self.master_weights
        if kept != "float32" and self.compute_dtype == "float32":
            raise wrong(
                f"master_weights {kept!r} keeps the weights in bfloat16, which compute_dtype "
                "'float32' contradicts: leave one out",
                "master_weights",
            )
        if kept in ("kahan", "stochastic_rounding") and self.optimiser_state == "dense":
            raise wrong(
                f"master_weights {kept!r} has no optimiser_state 'dense': leave it out",
                "optimiser_state",
            )
        if self.lora_rank and self.trajectory_every:
            raise wrong("lora_rank and trajectory_every exclude each other", "lora_rank")
        if self.lora_rank and kept != "float32":
            raise wrong(
                f"lora_rank excludes master_weights {kept!r}: adapters are trained on float32 "
                "weights",
                "lora_rank",
            )

    @property
    def updates(self) -> int:
        """Updates of the weights in one step."""
        return 1

    @property
    def sequences_at_once(self) -> int:
        """Sequences in one forward pass on one device."""
        return self.micro_batch_size or min(self.sequences_an_update, 256)

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence."""
        raise NotImplementedError

    @property
    def sequences_a_step(self) -> int:
        """Sequences in one step."""
        return self.batch_size

    @property
    def sequences_an_update(self) -> int:
        """Sequences in one update of the weights."""
        return self.sequences_a_step // self.updates

    @property
    def steps_between_saves(self) -> int:
        """The trainer's state is saved this often: five times a run unless set otherwise.

        The trajectory is read from saved states, so each of its steps is one of them.
        """
        if self.trajectory_every:
            return math.gcd(self.trajectory_every, self.save_every or self.trajectory_every)
        return self.save_every or max(1, -(-self.steps // 5))

    def as_json(self) -> dict[str, Any]:
        """All settings by name, as JSON has them."""
        return self.model_dump(mode="json")


def due(step: int, every: int, steps: int) -> bool:
    """Whether what is done every so many steps (0: never), and after the last, is due after one."""
    return bool(every) and (step % every == 0 or step == steps)


class OfflineSettings(Settings):
    """What the algorithms share that learn from texts that there are already."""

    renamed: ClassVar[Mapping[str, str]] = {**Settings.renamed, "too_long": "truncation"}

    max_length: AtLeastTwo = Field(2048, description="Tokens of the longest conversation.")
    truncation: Truncation = Field(
        "error", description="Whether a longer one is refused, or loses its end."
    )

    @property
    def longest_sequence(self) -> int:
        """See `Settings.longest_sequence`."""
        return self.max_length


REWARDS = ("math", "boxed", "gsm8k", "random", "format", "length")


def _reward_name(name: Any) -> str:
    """A reward is known by its name, or written package.module:function."""
    module, colon, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    known = isinstance(name, str) and name in REWARDS
    if known or (colon and all(map(str.isidentifier, [function, *module.split(".")]))):
        return str(name)
    raise wrong(
        f"{shown(name)} is not allowed{hint(name, REWARDS)}; allowed: {', '.join(REWARDS)}, "
        "package.module:function"
    )


def _reward(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return _reward_name(value)
    if not value:
        raise wrong("no part is named")
    for name, weight in value.items():
        _reward_name(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise wrong(f"{name}: expected a number, got {shown(weight)}")
    return {name: float(weight) for name, weight in value.items()}


Reward = Annotated[str | dict[str, float], BeforeValidator(_reward)]


class OnlineSettings(Settings):
    """What the on-policy algorithms share; `batch_size` counts prompts.

    `kl` says where the distance from the init enters, times `kl_coef`: added to the `loss`
    (Schulman's k3 estimate) or taken from each token's `reward` (k1); with "none" there is no
    reference policy. A step's answers may be parted, in order, into `updates_per_step`
    mini-batches: from the second on the policy is no longer the one that gave them, and the clipped
    importance ratio is no longer 1.
    """

    kind: ClassVar[Kind] = "online"
    renamed: ClassVar[Mapping[str, str]] = {**Settings.renamed, "kl_coefficient": "kl_coef"}
    # Why the distance from the init cannot be taken from the rewards, if it cannot.
    no_kl_in_reward: ClassVar[str] = ""
    # Whether rewards must lie in [0, 1], since outcomes are distinguished by them.
    bounded_rewards: ClassVar[bool] = False
    # Whether another model of the policy's size is trained beside it, and one is kept as it is.
    trains_another: ClassVar[bool] = False
    keeps_another: ClassVar[bool] = False

    samples_per_prompt: Positive = Field(4, description="Answers sampled for each prompt.")
    clip_ratio: Rate = Field(0.2, description="How far the importance ratio may be from 1.")
    kl: Literal["none", "loss", "reward"] = Field(
        "none", description="Where the distance from the init enters, if at all."
    )
    kl_coef: Rate = Field(0.0, description="What it is multiplied with; needs kl.")
    temperature: Above = Field(1.0, description="Of sampling.")
    max_prompt_length: Positive = Field(512, description="Tokens of the longest prompt.")
    max_response_length: Positive = Field(512, description="Tokens of the longest answer.")
    reward: Reward = Field(
        "boxed",
        description="math (the last boxed answer is right by the evaluation's grader), boxed (it "
        "is the very text of the right one), gsm8k (the number that is marked as "
        "GSM8K marks it is the right one), random (the placebo: a fair coin), "
        "package.module:function, from an answer's text and the truth to a number; or several with "
        "weights, format (there is a boxed answer) and length (the answer's, as a share of "
        "max_response_length) among them. What was cut off gets nothing from math, boxed, gsm8k, "
        "format.",
    )
    updates_per_step: Positive = Field(
        1, description="Mini-batches that a step's answers are parted into."
    )

    @property
    def updates(self) -> int:
        """See `Settings.updates`."""
        return self.updates_per_step

    @property
    def sequences_a_step(self) -> int:
        """Sequences sampled in one step."""
        return self.batch_size * self.samples_per_prompt

    @property
    def longest_sequence(self) -> int:
        """See `Settings.longest_sequence`."""
        return self.max_prompt_length + self.max_response_length

    @property
    def mask_beside(self) -> bool:
        """Whether the model that is trained beside the policy keeps to the policy's mask."""
        return False

    def as_json(self) -> dict[str, Any]:
        """See `Settings.as_json`; without adapters nothing is recorded of them, as once there were
        none."""
        left_out = () if self.lora_rank else ("lora_rank", "lora_alpha")
        return {name: value for name, value in super().as_json().items() if name not in left_out}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.batch_size % self.updates_per_step:
            raise wrong(
                f"batch_size ({self.batch_size}) must be a multiple of updates_per_step "
                f"({self.updates_per_step})",
                "updates_per_step",
            )
        if (self.kl == "none") != (self.kl_coef == 0):
            raise wrong(
                f"kl {self.kl!r} contradicts kl_coef {self.kl_coef:g}: set kl to loss or reward "
                "and a kl_coef above 0, or neither",
                "kl_coef",
            )
        if self.kl == "reward" and self.no_kl_in_reward:
            raise wrong(
                f"kl: 'reward' is not allowed in {self.algorithm}, {self.no_kl_in_reward}; "
                "allowed: none, loss",
                "kl",
            )


class PreferenceSettings(OfflineSettings):
    """What the preference algorithms share; `batch_size` counts examples, most often pairs.

    An example has `answers` answers.
    """

    kind: ClassVar[Kind] = "preference"
    answers: ClassVar[int] = 2

    @property
    def per_token(self) -> bool:
        """Whether an answer counts by the mean of its tokens' log-probabilities, not their sum."""
        return False

    @property
    def sequences_a_step(self) -> int:
        """Sequences in one optimiser step: all answers of each example."""
        return self.answers * self.batch_size

    @property
    def sequences_at_once(self) -> int:
        """Sequences in one forward pass on one device, always whole examples."""
        return self.answers * max(1, super().sequences_at_once // self.answers)


class Accelerator(SettingsModel):
    """The machine a run trains on: the only thing that differs between CPU and CUDA."""

    kind: Literal["cpu", "cuda"] = Field("cpu", description="What computes.")
    devices: Positive = Field(
        1, description="Worker processes that share the weights (FSDP2 ranks; GPUs on cuda)."
    )
    nodes: Positive = Field(
        1, description="Nodes of a SLURM allocation that a training runs on, `devices` on each."
    )
    threads: Positive = Field(1, description="Cores a job takes on a node.")
    memory_gb: Above | None = Field(None, description="Main memory of a training run.")
    memory_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of each GPU's memory that vLLM may take beside the trainer."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="transformers' implementation of attention."
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Compute activations again in the backward pass instead of keeping them: less "
        "memory, a third more time (by default on cuda).",
    )
    offload_weights: bool = Field(
        False, description="Keep the trainer's weights in main memory while vLLM samples."
    )
    offload_optimiser: bool = Field(
        False, description="Keep AdamW's moments in main memory between steps."
    )
    tensor_parallel: Positive = Field(
        1, description="Devices that share one copy of the sampler's weights."
    )
    tokens_at_once: Positive | None = Field(
        None,
        description="Instead of micro_batch_size: sequences of so many tokens go through the model "
        "at once on one device (not of preferences, whose pairs stay together).",
    )
    bfloat16: Bfloat16 = Field(
        "auto",
        description="How runs in bf16 are computed: native bf16, weights rounded to bf16 and "
        "multiplied in float32 (emulated), or (auto) native where the processor has bf16.",
    )
    logger: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [], description="Where a run's log is sent, too, step by step, if that is installed."
    )
    stall_seconds: Annotated[float, Field(ge=1)] = Field(
        1800.0, description="A run without a new step for so long is stopped as hung."
    )

    @model_validator(mode="after")
    def _divided(self) -> Self:
        if self.devices % self.tensor_parallel:
            raise wrong(
                f"tensor_parallel ({self.tensor_parallel}) must divide devices ({self.devices})",
                "tensor_parallel",
            )
        return self

    @property
    def ranks(self) -> int:
        """Worker processes over all nodes."""
        return self.nodes * self.devices


def check_devices(settings: Settings, machine: Accelerator) -> None:
    """Check that a machine's devices have equal shares of every update's examples, and that the
    longest sequence fits into what goes through the model at once.

    Raises:
        UserError: names batch size and devices, or the lengths.
    """
    longest = settings.longest_sequence
    if machine.tokens_at_once is not None and longest > machine.tokens_at_once:
        raise UserError(
            f"accelerator: tokens_at_once ({machine.tokens_at_once}) is less than the longest "
            f"sequence of a run ({longest} tokens): raise it, or lower the run's lengths"
        )
    if settings.batch_size // settings.updates % machine.ranks:
        each = f" in each of {settings.updates} updates" if settings.updates > 1 else ""
        raise UserError(
            f"settings: batch_size ({settings.batch_size}){each} must be a multiple of the "
            f"accelerator's devices ({machine.ranks})"
        )


def parse_settings(
    settings: Mapping[str, Any], origin: Origin | str = "settings", place: Place = ()
) -> Settings:
    """The settings of a run; `UserError` names the key and what is allowed there."""
    from subnetworks.training import algorithms

    return parse(algorithms.find(settings, origin, place), settings, origin, place)


IN_STEPS = {"epochs": "steps", "warmup_ratio": "warmup_steps"}
"""What a run's lengths may be given by instead of steps, before its data are known."""


class Lengths(SettingsModel):
    """How long a run is, before its data are known."""

    steps: Positive | None = None
    epochs: Above | None = Field(None, description="Instead of steps.")
    warmup_steps: Count | None = None
    warmup_ratio: Share | None = Field(None, description="Of all steps, instead of warmup_steps.")
    batch_size: Positive = Settings.model_fields["batch_size"].default

    @model_validator(mode="after")
    def _once(self) -> Self:
        check_lengths(self)
        return self


def check_lengths(run: Any) -> None:
    """Raise what a validator raises if a length or the warm-up is given twice, or no length."""
    for name, steps in IN_STEPS.items():
        if getattr(run, name) is not None and steps in run.model_fields_set:
            raise wrong(f"{name} and {steps} say the same thing: give one", name)
    if run.epochs is None and run.steps is None:
        raise wrong("needs exactly one of: steps | epochs")


def in_steps(settings: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Settings with `epochs` as `steps`, and `warmup_ratio` as `warmup_steps`.

    An epoch is as many whole steps as the data set's `examples` fill; the warm-up's share is of all
    steps, to the nearest one.

    Raises:
        UserError: a length is given twice, or is no number in its range.
    """
    given = {name: settings[name] for name in Lengths.model_fields if name in settings}
    lengths = parse(Lengths, given, "settings")
    told = {name: value for name, value in settings.items() if name not in IN_STEPS}
    if lengths.epochs is not None:
        told["steps"] = max(1, int(lengths.epochs * examples / lengths.batch_size))
    if lengths.warmup_ratio is not None:
        told["warmup_steps"] = warmup_of(lengths.warmup_ratio, told["steps"])
    return told


def parse_accelerator(accelerator: Mapping[str, Any]) -> Accelerator:
    """The accelerator; `UserError` names the key and what is allowed there."""
    return parse(Accelerator, accelerator, "accelerator")
