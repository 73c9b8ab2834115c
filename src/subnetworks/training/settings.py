"""What a run may be told: one typed class an algorithm, checked before anything heavy starts."""

import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from subnetworks.errors import UserError
from subnetworks.precision import Bfloat16, Dtype
from subnetworks.training.schedule import Schedule

TooLong = Literal["refuse", "cut"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every algorithm needs.

    `steps` are optimiser steps, `batch_size` the examples of one step over all devices and
    `micro_batch_size` the sequences that go through the model at once on one device.
    `clip_gradient` bounds the global norm of the (masked) gradient; 0 leaves it unbounded.
    `optimiser_state` of a run within a mask: AdamW's moments for its entries alone (compact) or for
    all (dense); the weights are the same to the bit. Every `trajectory_every` steps the weights are
    kept as a delta against the init (0: never). The optimiser keeps float32 weights throughout;
    `compute_dtype` is what forward and backward pass see them in (`subnetworks.precision`),
    `stored_as` what the checkpoint at the end is rounded to.
    """

    algorithm: ClassVar[str] = ""
    kind: ClassVar[Literal["sft", "online", "preference"]] = "sft"

    seed: int = 0
    steps: int
    batch_size: int = 32
    micro_batch_size: int | None = None
    learning_rate: float
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_gradient: float = 1.0
    save_every: int | None = None
    optimiser_state: Literal["compact", "dense"] = "compact"
    trajectory_every: int = 0
    compute_dtype: Dtype = "bfloat16"
    stored_as: Dtype = "bfloat16"

    def check(self) -> None:
        """Raise `UserError` for values that are of the right type and still senseless."""
        at_least(self, 1, "steps", "batch_size", "micro_batch_size", "save_every")
        at_least(self, 0, "seed", "warmup_steps", "weight_decay", "clip_gradient", "learning_rate")
        at_least(self, 0, "trajectory_every")
        if self.trajectory_every > self.steps:
            raise UserError(
                f"settings: trajectory_every ({self.trajectory_every}) exceeds steps ({self.steps})"
            )
        if self.warmup_steps > self.steps:
            raise UserError(
                f"settings: warmup_steps ({self.warmup_steps}) exceeds steps ({self.steps})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"settings: betas must lie in [0, 1), got {list(self.betas)}")

    @property
    def sequences_at_once(self) -> int:
        """Sequences in one forward pass on one device."""
        return self.micro_batch_size or min(self.sequences_an_update, 256)

    @property
    def sequences_a_step(self) -> int:
        """Sequences in one step."""
        return self.batch_size

    @property
    def sequences_an_update(self) -> int:
        """Sequences in one update of the weights, of which a step has one unless told otherwise."""
        return self.sequences_a_step

    @property
    def steps_between_saves(self) -> int:
        """The trainer's state is saved this often: five times a run unless told otherwise.

        The trajectory is read from saved states, so each of its steps is one of them.
        """
        if self.trajectory_every:
            return math.gcd(self.trajectory_every, self.save_every or self.trajectory_every)
        return self.save_every or max(1, -(-self.steps // 5))


@dataclass(frozen=True, kw_only=True)
class SftSettings(Settings):
    """Supervised finetuning on conversations; `batch_size` counts conversations.

    A conversation of more than `max_length` tokens is refused or loses its end (`too_long`).
    """

    algorithm: ClassVar[str] = "sft"
    kind: ClassVar[Literal["sft", "online", "preference"]] = "sft"

    max_length: int = 2048
    too_long: TooLong = "refuse"

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 2, "max_length")


REWARDS = ("math", "boxed", "random", "format", "length")


@dataclass(frozen=True, kw_only=True)
class OnlineSettings(Settings):
    """What the on-policy algorithms share; `batch_size` counts prompts.

    `reward` is "math" (the last boxed answer is right by the evaluation's grader), "boxed" (it is
    the very text of the right one), "random" (a fair coin, whatever the answer: the placebo) or
    "package.module:function", a function from an answer's text and the truth to a number; or
    several with weights, "format" (there is a boxed answer) and "length" (the answer's, as a share
    of max_response_length) among them. An answer that was cut off gets nothing from "math",
    "boxed" and "format". `kl` says where the distance from the init enters, times
    `kl_coefficient`: added to the `loss` (Schulman's k3 estimate) or taken from each token's
    `reward` (k1); with "none" there is no reference policy. A step's answers may be parted, in
    order, into `updates_per_step` mini-batches: from the second on the policy is no longer the one
    that gave them, and the clipped importance ratio is no longer 1.
    """

    kind: ClassVar[Literal["sft", "online", "preference"]] = "online"

    samples_per_prompt: int = 4
    clip_ratio: float = 0.2
    kl: Literal["none", "loss", "reward"] = "none"
    kl_coefficient: float = 0.0
    temperature: float = 1.0
    max_prompt_length: int = 512
    max_response_length: int = 512
    reward: str | dict[str, float] = "boxed"
    updates_per_step: int = 1

    @property
    def sequences_a_step(self) -> int:
        """Sequences sampled in one step."""
        return self.batch_size * self.samples_per_prompt

    @property
    def sequences_an_update(self) -> int:
        """Sequences in one of the step's mini-batches."""
        return self.sequences_a_step // self.updates_per_step

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with the longest answer."""
        return self.max_prompt_length + self.max_response_length

    @property
    def mask_beside(self) -> bool:
        """Whether the model that is trained beside the policy keeps to the policy's mask."""
        return False

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 1, "samples_per_prompt", "max_prompt_length", "max_response_length")
        at_least(self, 1, "updates_per_step")
        at_least(self, 0, "clip_ratio", "kl_coefficient")
        if self.batch_size % self.updates_per_step:
            raise UserError(
                f"settings: batch_size ({self.batch_size}) must be a multiple of updates_per_step "
                f"({self.updates_per_step})"
            )
        for name in [self.reward] if isinstance(self.reward, str) else self.reward:
            if ":" not in name and name not in REWARDS:
                raise UserError(
                    f"settings: reward: {name!r} is not allowed{hint(name, REWARDS)}; "
                    f"allowed: {', '.join(REWARDS)}, package.module:function"
                )
        if not self.reward:
            raise UserError("settings: reward: no part is named")
        if (self.kl == "none") != (self.kl_coefficient == 0):
            raise UserError(
                f"settings: kl {self.kl!r} contradicts kl_coefficient {self.kl_coefficient}: "
                "set kl to loss or reward and a coefficient above 0, or neither"
            )
        if self.temperature <= 0:
            raise UserError(f"settings: temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(OnlineSettings):
    """Group relative policy optimisation: advantages within each prompt's samples."""

    algorithm: ClassVar[str] = "grpo"

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 2, "samples_per_prompt")


@dataclass(frozen=True, kw_only=True)
class RaftPlusPlusSettings(OnlineSettings):
    """RAFT++: rejection sampling from the policy itself, step by step; only right answers are
    learnt from, with importance ratio and clipping (`subnetworks.training.raft`).

    Its authors make four updates a step.
    """

    algorithm: ClassVar[str] = "raft_plus_plus"

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.kl == "reward":
            raise UserError(
                "settings: kl: 'reward' is not allowed in raft_plus_plus, which only tells right "
                "answers from wrong ones; allowed: none, loss"
            )


@dataclass(frozen=True, kw_only=True)
class PpoSettings(OnlineSettings):
    """Proximal policy optimisation: advantages by generalised advantage estimation (`gamma`,
    `lam`) from a critic that starts as the init with a new value head.

    The critic has the policy's schedule, its own `critic_learning_rate`, and is trained whole even
    where the policy is trained within a mask, unless `mask_critic` (its value head always is).
    `clip_value` bounds how far its predictions move in one step.
    """

    algorithm: ClassVar[str] = "ppo"

    samples_per_prompt: int = 1
    gamma: float = 1.0
    lam: float = 1.0
    critic_learning_rate: float = 1e-5
    clip_value: float = 0.5
    mask_critic: bool = False

    @property
    def mask_beside(self) -> bool:
        """See `OnlineSettings.mask_beside`."""
        return self.mask_critic

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 0, "critic_learning_rate", "clip_value")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"settings: {name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PrimeSettings(OnlineSettings):
    """Process reinforcement through implicit rewards: a reward model, trained along on the scores
    of the answers, gives a reward for every token (`subnetworks.training.process_rewards`).

    The reward model starts as the init, which is also its reference, has the policy's schedule, its
    own `reward_learning_rate`, `reward_weight_decay` and bound `reward_clip_gradient`, and is
    trained whole even where the policy is trained within a mask, unless `mask_reward_model`. `beta`
    is the weight of its log-ratios.
    """

    algorithm: ClassVar[str] = "prime"

    beta: float = 0.05
    reward_learning_rate: float = 1e-6
    reward_weight_decay: float = 0.0
    reward_clip_gradient: float = 10.0
    mask_reward_model: bool = False

    @property
    def mask_beside(self) -> bool:
        """See `OnlineSettings.mask_beside`."""
        return self.mask_reward_model

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 2, "samples_per_prompt")
        at_least(self, 0, "reward_learning_rate", "reward_weight_decay", "reward_clip_gradient")
        if self.beta <= 0:
            raise UserError(f"settings: beta must be above 0, got {self.beta}")
        weights = [1.0] if isinstance(self.reward, str) else list(self.reward.values())
        if min(weights) < 0 or sum(weights) > 1:
            raise UserError(
                f"settings: reward: weights {weights}: prime needs scores in [0, 1]: give weights "
                "of at least 0 that sum to 1 at most"
            )
        if self.kl == "reward":
            raise UserError(
                "settings: kl: 'reward' is not allowed in prime, whose tokens' rewards are its "
                "reward model's; allowed: none, loss"
            )


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(Settings):
    """What the preference algorithms share; `batch_size` counts examples, most often pairs.

    An example has `answers` answers. `needs_reference` says whether the loss compares the policy
    with the init. A conversation of more than `max_length` tokens is refused or loses its end
    (`too_long`).
    """

    kind: ClassVar[Literal["sft", "online", "preference"]] = "preference"
    answers: ClassVar[int] = 2
    needs_reference: ClassVar[bool] = False

    max_length: int = 2048
    too_long: TooLong = "refuse"

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

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 2, "max_length")


@dataclass(frozen=True, kw_only=True)
class DpoSettings(PreferenceSettings):
    """Direct preference optimisation; `length_normalised` divides by the answers' lengths."""

    algorithm: ClassVar[str] = "dpo"
    needs_reference: ClassVar[bool] = True

    beta: float = 0.1
    length_normalised: bool = False

    @property
    def per_token(self) -> bool:
        """As the run's own settings say."""
        return self.length_normalised

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        positive(self, "beta")


@dataclass(frozen=True, kw_only=True)
class OrpoSettings(PreferenceSettings):
    """Odds ratio preference optimisation: imitate the chosen text, and widen its odds.

    `odds_ratio_weight` is the paper's λ.
    """

    algorithm: ClassVar[str] = "orpo"

    odds_ratio_weight: float = 0.1

    @property
    def per_token(self) -> bool:
        """Odds are those of the mean token."""
        return True

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 0, "odds_ratio_weight")


@dataclass(frozen=True, kw_only=True)
class KtoSettings(PreferenceSettings):
    """Kahneman-Tversky optimisation: single answers, each desirable or not.

    `batch_size` counts answers. The weights λ_D and λ_U scale the loss of each kind.
    """

    algorithm: ClassVar[str] = "kto"
    answers: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        # The reference point comes from prompts paired with other prompts' answers.
        at_least(self, 2, "batch_size")
        at_least(self, 0, "desirable_weight", "undesirable_weight")
        positive(self, "beta")


@dataclass(frozen=True, kw_only=True)
class SimpoSettings(PreferenceSettings):
    """Simple preference optimisation: no reference, a margin `gamma` between the answers."""

    algorithm: ClassVar[str] = "simpo"

    beta: float = 2.0
    gamma: float = 1.0

    @property
    def per_token(self) -> bool:
        """The reward is the mean token's."""
        return True

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        at_least(self, 0, "gamma")
        positive(self, "beta")


ALGORITHMS: dict[str, type[Settings]] = {
    cls.algorithm: cls
    for cls in (
        SftSettings,
        GrpoSettings,
        RaftPlusPlusSettings,
        PpoSettings,
        PrimeSettings,
        DpoSettings,
        OrpoSettings,
        KtoSettings,
        SimpoSettings,
    )
}


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """The machine a run trains on: the only thing that differs between CPU and CUDA.

    `devices` are worker processes over which the weights are sharded (GPUs on CUDA), on each of
    `nodes` (more than one: of a SLURM allocation), `threads` the CPU threads of each,
    `bfloat16` how bf16 is computed in (`subnetworks.precision`), `memory_share` the part of each
    GPU's memory given to vLLM, `stall_seconds` how long a run may go without a new step before it
    is stopped as hung.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    devices: int = 1
    nodes: int = 1
    threads: int = 1
    memory_gb: float | None = None
    memory_share: float = 0.5
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    bfloat16: Bfloat16 = "auto"
    stall_seconds: float = field(default=1800.0)

    def check(self) -> None:
        """Raise `UserError` for senseless values."""
        at_least(self, 1, "devices", "nodes", "threads", "stall_seconds", where="accelerator")
        if not 0 < self.memory_share < 1:
            raise UserError(
                f"accelerator: memory_share must lie between 0 and 1, got {self.memory_share}"
            )

    @property
    def ranks(self) -> int:
        """Worker processes over all nodes."""
        return self.nodes * self.devices


Parsed = TypeVar("Parsed")


def parse_settings(settings: Mapping[str, Any]) -> Settings:
    """The typed settings of a run; `UserError` names the key and what is allowed there."""
    algorithm = settings.get("algorithm")
    if algorithm not in ALGORITHMS:
        raise UserError(
            f"settings: algorithm {algorithm!r} does not exist"
            f"{hint(str(algorithm), ALGORITHMS)}; there are: {', '.join(ALGORITHMS)}"
        )
    values = {key: value for key, value in settings.items() if key != "algorithm"}
    parsed = parse(ALGORITHMS[algorithm], values, f"settings of {algorithm}")
    parsed.check()
    return parsed


IN_STEPS = {"epochs": "steps", "warmup_share": "warmup_steps"}
"""What a run's lengths may be told by instead of steps, before its data are known."""


def in_steps(settings: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Settings with `epochs` as `steps`, and `warmup_share` as `warmup_steps`.

    An epoch is as many whole steps as the data set's `examples` fill; the warm-up's share is of all
    steps, to the nearest one.

    Raises:
        UserError: a length is given twice, or is no number in its range.
    """
    given = dict(settings)
    values = {
        name: _convert(float, given.pop(name), "settings", name)
        for name in IN_STEPS
        if name in given
    }
    for name in values:
        if IN_STEPS[name] in given:
            raise UserError(f"settings: {name} and {IN_STEPS[name]} say the same thing: give one")
    if "epochs" in values:
        if values["epochs"] <= 0:
            raise UserError(f"settings: epochs must be above 0, got {values['epochs']:g}")
        batch = _convert(
            int, given.get("batch_size", Settings.batch_size), "settings", "batch_size"
        )
        given["steps"] = max(1, int(values["epochs"] * examples / max(1, batch)))
    if "warmup_share" in values:
        if not 0 <= values["warmup_share"] <= 1:
            raise UserError(
                f"settings: warmup_share must lie in [0, 1], got {values['warmup_share']:g}"
            )
        steps = _convert(int, given.get("steps"), "settings", "steps")
        given["warmup_steps"] = round(values["warmup_share"] * steps)
    return given


def parse_accelerator(accelerator: Mapping[str, Any]) -> Accelerator:
    """The typed accelerator; `UserError` names the key and what is allowed there."""
    parsed = parse(Accelerator, accelerator, "accelerator")
    parsed.check()
    return parsed


def at_least(value: object, bound: float, *names: str, where: str = "settings") -> None:
    """Raise `UserError` if one of the named attributes is below `bound`."""
    for name in names:
        number = getattr(value, name)
        if number is not None and number < bound:
            raise UserError(f"{where}: {name} must be at least {bound}, got {number}")


def positive(value: object, *names: str) -> None:
    """Raise `UserError` if one of the named settings is not above 0."""
    for name in names:
        if getattr(value, name) <= 0:
            raise UserError(f"settings: {name} must be above 0, got {getattr(value, name)}")


def parse(cls: type[Parsed], values: Mapping[str, Any], where: str) -> Parsed:
    """A dataclass from JSON values; `UserError` names the key and what is allowed there."""
    types = typing.get_type_hints(cls)
    allowed = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in allowed:
            raise UserError(
                f"{where}: unknown key {key!r}{hint(str(key), allowed)}; "
                f"allowed: {', '.join(allowed)}"
            )
    converted = {key: _convert(types[key], value, where, key) for key, value in values.items()}
    try:
        return cls(**converted)
    except TypeError:
        required = {
            entry.name
            for entry in fields(cls)  # type: ignore[arg-type]
            if entry.default is MISSING and entry.default_factory is MISSING
        }
        missing = ", ".join(repr(name) for name in sorted(required - set(values)))
        raise UserError(f"{where}: missing key {missing}") from None


def _convert(kind: Any, value: Any, where: str, key: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = get_args(kind)
        if value is None and NoneType in options:
            return None
        if isinstance(value, Mapping):
            options = tuple(option for option in options if get_origin(option) is dict) or options
        return _convert(next(o for o in options if o is not NoneType), value, where, key)
    if origin is Literal:
        if value in get_args(kind):
            return value
        choices = ", ".join(str(choice) for choice in get_args(kind))
        raise UserError(f"{where}: {key}: {value!r} is not allowed; allowed: {choices}")
    if origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(get_args(kind)):
            return tuple(_convert(float, item, where, key) for item in value)
        raise UserError(f"{where}: {key}: expected {len(get_args(kind))} numbers, got {value!r}")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and float(value).is_integer():
        return int(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if origin is dict and isinstance(value, Mapping):
        to = get_args(kind)[1]
        if to is str:
            return {str(name): str(text) for name, text in value.items()}
        return {
            str(name): _convert(to, item, where, f"{key}: {name}") for name, item in value.items()
        }
    if origin is dict:
        raise UserError(f"{where}: {key}: expected names and texts, got {value!r}")
    names = {float: "a number", str: "a text", int: "a whole number", bool: "true or false"}
    raise UserError(f"{where}: {key}: expected {names[kind]}, got {value!r}")


def hint(name: str, allowed: typing.Iterable[str]) -> str:
    """A question that names the allowed word closest to `name`, if one is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
