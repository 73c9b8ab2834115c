"""Hours and gigabytes of an experiment's heavy jobs, before any of them has run.

docs/performance.md has the formulas, and what they give beside what was measured. Lengths count at
their longest, so that these are upper bounds at a machine's stated speed. What is not known makes
an estimate None, with the reason; nothing is guessed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subnetworks.checkpoints.hub.client import Entry
from subnetworks.core.precision import of_training
from subnetworks.experiment import Experiment, sizes
from subnetworks.experiment.models import Benchmark, Machine, Size
from subnetworks.training.settings import (
    OnlineSettings,
    PreferenceSettings,
    Settings,
)

# Operations for each weight and token: one pass forward, one back.
FORWARD, BACKWARD = 2, 4
# Bytes for each weight: a float32, a bfloat16; AdamW's state beside weight and gradient.
FLOAT32, BFLOAT16 = 4, 2
TRAINED = 4 * FLOAT32  # weight, gradient, two moments
SAVED = 3 * FLOAT32  # a saved state has no gradient
KEPT_STATES = 2
# Numbers of bfloat16 for each token and word: a logit and its gradient.
LOGITS = 2
# Tokens that a question, or an example before it, is taken to have, and options that are compared.
PROMPT, OPTIONS = 512, 5

Reason = tuple[str, str]


@dataclass(frozen=True)
class Estimate:
    """What a job takes at most.

    Attributes:
        rule: of the workflow: `train`, `sample_dataset`, `evaluate` or `fetch_checkpoint`.
        name: of the run, data set or checkpoint.
        hours: by the clock; None if not known, or none to speak of.
        device_gb: 10⁹ bytes on each device, weights and activations, without caches.
        kept_gb: 10⁹ bytes on disk that stay.
        meanwhile_gb: 10⁹ bytes on disk beside these until the job ends.
        unknown: why something is None: what is not known, and of what.
    """

    rule: str
    name: str
    hours: float | None = None
    device_gb: float | None = None
    kept_gb: float | None = None
    meanwhile_gb: float | None = None
    unknown: tuple[Reason, ...] = ()


def estimates(
    experiment: Experiment, machine: Machine, locked: Mapping[str, Entry]
) -> Iterator[Estimate]:
    """One for each download, sampled data set, training and evaluation, the controls' too.

    Args:
        experiment: what is to be made.
        machine: where.
        locked: the experiment's lock.
    """
    for name in experiment.with_source("checkpoints", "hub"):
        yield _fetched(experiment, name, locked)
    for name in experiment.with_source("datasets", "sample"):
        yield _sampled(experiment, name, machine)
    for name in experiment.runs:
        yield _trained(experiment, name, machine)
    for name in experiment.evaluation:
        yield _evaluated(experiment, name, machine)


_SECTIONS = {
    "fetch_checkpoint": "checkpoints",
    "sample_dataset": "datasets",
    "train": "runs",
    "evaluate": "evaluation",
}


def is_control(experiment: Experiment, one: Estimate) -> bool:
    """Whether only a control asks for a job."""
    return one.name in experiment.of_controls.get(_SECTIONS[one.rule], ())


def _fetched(experiment: Experiment, name: str, locked: Mapping[str, Entry]) -> Estimate:
    entry = locked.get(experiment.hub_source("checkpoints", name).key)
    size = sizes.of_checkpoint(experiment, name)
    if entry is not None:
        there = float(entry.size)
    elif size is not None:
        there = size.weights * BFLOAT16
    else:
        return Estimate("fetch_checkpoint", name, unknown=(_no_size(experiment, name),))
    return Estimate("fetch_checkpoint", name, kept_gb=_gb(there))


def _trained(experiment: Experiment, name: str, machine: Machine) -> Estimate:
    run: Settings = experiment.models["runs"][name]
    entry = experiment.runs[name]
    size = sizes.of_checkpoint(experiment, entry["init"])
    if size is None:
        return Estimate("train", name, unknown=(_no_size(experiment, entry["init"]),))
    steps = sizes.steps(experiment, name)
    unknown = [] if steps else [("rows of the data sets", entry["data"])]
    online = beside = False
    of_init = 0  # passes of the init
    if isinstance(run, OnlineSettings):
        online, beside = True, run.trains_another
        of_init = run.keeps_another + (run.kl != "none")
    # Adapters taken away, the policy is the init.
    reference = of_init > 0 and not run.lora_rank
    longest = run.longest_sequence
    recomputed = machine.gradient_checkpointing
    if recomputed is None:
        recomputed = machine.kind == "cuda"
    hours = None
    if steps:
        passes = (FORWARD + BACKWARD + FORWARD * recomputed) * (1 + beside)
        passes += FORWARD * (online + beside + of_init)
        tokens = float(steps * run.sequences_a_step * longest)
        operations = size.weights * tokens * passes
        answers = 0.0
        if isinstance(run, OnlineSettings):
            answers = float(steps * run.sequences_a_step * run.max_response_length)
        elif isinstance(run, PreferenceSettings) and run.needs_reference:
            there = sizes.rows(experiment, entry["data"]) or steps * run.batch_size
            operations += size.weights * there * 2 * longest * FORWARD
        hours = _hours(machine, operations, size.weights * answers * FORWARD, unknown)
    arithmetic = of_training(run.compute_dtype, machine.kind, machine.bfloat16)
    # Weights that are rounded in float32 are kept as they were beside it.
    emulated = arithmetic.weights != arithmetic.products
    each = TRAINED * (1 + beside) + FLOAT32 * (reference + emulated)
    on_device = size.weights * each / machine.ranks
    on_device += BFLOAT16 * size.weights * online / machine.tensor_parallel
    at_once = run.sequences_at_once * longest
    if machine.tokens_at_once is not None and not isinstance(run, PreferenceSettings):
        at_once = machine.tokens_at_once
    number = FLOAT32 if arithmetic.products == "float32" else BFLOAT16
    on_device += activations(size, at_once, recomputed, number)
    saved = FLOAT32 if run.save_dtype == "float32" else BFLOAT16
    snapshots = steps // run.trajectory_every if steps and run.trajectory_every else 0
    return Estimate(
        "train",
        name,
        hours,
        _gb(on_device),
        _gb(size.weights * (saved + BFLOAT16 * snapshots)) if steps else None,
        _gb(size.weights * SAVED * KEPT_STATES * (1 + beside)),
        tuple(unknown),
    )


def activations(size: Size, tokens: int, again: bool, number: int = BFLOAT16) -> float:
    """Bytes of what `tokens` at once keep for their way back, and of their logits.

    As transformers' Llama and Qwen2 keep it, without the scores of attention: of each layer in
    bfloat16 20 bytes for each number of its width, 8 of its MLP's and 4 of its keys', which is at
    most (8 · its weights / width + 44 · width) / 3. `tests/system/benchmarks/steps.py` measures it.

    Args:
        again: whether all but a layer's input is computed again on the way back.
        number: bytes of a number; in float32 it is at most twice as much.
    """
    layer = (size.weights - size.vocabulary * size.width) / size.layers
    kept = (8 * layer / size.width + 44 * size.width) / 3
    layers = size.layers * BFLOAT16 * size.width + kept if again else size.layers * kept
    return number / BFLOAT16 * tokens * (layers + LOGITS * BFLOAT16 * size.vocabulary)


def _sampled(experiment: Experiment, name: str, machine: Machine) -> Estimate:
    settings: Any = experiment.models["datasets"][name]
    entry = experiment.datasets[name]
    size = sizes.of_checkpoint(experiment, entry["policy"])
    if size is None:
        return Estimate("sample_dataset", name, unknown=(_no_size(experiment, entry["policy"]),))
    problems = settings.problems or sizes.rows(experiment, entry["sample"])
    unknown = [] if problems else [("rows of the data sets", entry["sample"])]
    hours = None
    if problems:
        answers = problems * settings.samples * settings.max_response_length
        prompts = problems * settings.max_prompt_length
        operations = FORWARD * size.weights
        hours = _hours(machine, operations * prompts, operations * answers, unknown)
    return Estimate("sample_dataset", name, hours, _served(size, machine), unknown=tuple(unknown))


def _evaluated(experiment: Experiment, name: str, machine: Machine) -> Estimate:
    size = sizes.of_checkpoint(experiment, name)
    if size is None:
        return Estimate("evaluate", name, unknown=(_no_size(experiment, name),))
    unknown: list[Reason] = []
    read = answered = 0
    for benchmark in experiment.evaluation[name]["benchmarks"]:
        asked: Benchmark = experiment.models["benchmarks"][benchmark]
        questions = _questions(asked)
        if questions is None:
            unknown.append(("rows of the benchmarks", benchmark))
            continue
        task = asked.definition
        prompt = PROMPT * (1 + asked.shots)
        read += questions * prompt * (OPTIONS if task.chooses else asked.samples)
        answered += 0 if task.chooses else questions * asked.samples * asked.max_tokens
    hours = None
    if not unknown:
        operations = FORWARD * size.weights
        hours = _hours(machine, operations * read, operations * answered, unknown)
    return Estimate("evaluate", name, hours, _served(size, machine), unknown=tuple(unknown))


def _questions(asked: Benchmark) -> int | None:
    if asked.made:
        return asked.rows or 500
    there = None if asked.data is not None else asked.definition.questions
    if asked.limit is None:
        return there
    most = asked.limit * len(asked.definition.definitions)
    return most if there is None else min(there, most)


def _served(size: Size, machine: Machine) -> float:
    return _gb(size.weights * (BFLOAT16 if machine.kind == "cuda" else FLOAT32))


def _hours(
    machine: Machine, operations: float, sampled: float, unknown: list[Reason]
) -> float | None:
    """Of a job with so many operations, some of them in sampling; None adds to `unknown`."""
    speed = machine.speed
    seconds = speed.start
    for what, many, reached in (
        ("training", operations, speed.training),
        ("sampling", sampled, speed.sampling),
    ):
        if many and reached is None:
            unknown.append(("speed of the accelerator in", what))
            return None
        if many:
            seconds += many / (reached * 1e12 * machine.ranks)  # type: ignore[operator]
    return seconds / 3600


_SIZE = "size of the checkpoints"
_KNOWN_BY = {_SIZE: " (`snakemake lock` asks the Hub; or say it in their entries: size)"}


def _no_size(experiment: Experiment, name: str) -> Reason:
    return _SIZE, experiment.start_of(name)


def _gb(number: float) -> float:
    return number / 1e9


_KINDS = {
    "fetch_checkpoint": "download",
    "sample_dataset": "sample",
    "train": "train",
    "evaluate": "evaluate",
}
_HEAD = ("at most", "time", "GB per device", "GB of disk", "and meanwhile")


def text(found: Iterable[Estimate], name: str, accelerator: str, machine: Machine) -> str:
    """A table of estimates with sums, and what is not known, as printed.

    Args:
        found: the estimates.
        name: of the experiment.
        accelerator: what the machine is called.
    """
    rows = list(found)
    if not rows:
        return ""
    speeds = " and ".join(
        f"{'unknown' if reached is None else format(reached, 'g')} ({what})"
        for what, reached in (
            ("training", machine.speed.training),
            ("sampling", machine.speed.sampling),
        )
    )
    devices = f"{machine.ranks} device{'s' if machine.ranks > 1 else ''}"
    lines = [
        f"{name} on {accelerator}: estimates for {devices} of 10¹² operations a second: {speeds}"
    ]
    cells = [
        (
            f"{_KINDS[one.rule]} {one.name}",
            _time(one.hours) if one.hours is not None else _absent(one, "hours"),
            *(
                _absent(one, key) if (value := getattr(one, key)) is None else _shown(value)
                for key in ("device_gb", "kept_gb", "meanwhile_gb")
            ),
        )
        for one in rows
    ]
    cells.append(
        (
            f"all {len(rows)}",
            _time(_sum(one.hours for one in rows)),
            _shown(max((one.device_gb or 0.0 for one in rows), default=0.0)),
            _shown(_sum(one.kept_gb for one in rows)),
            _shown(max((one.meanwhile_gb or 0.0 for one in rows), default=0.0)),
        )
    )
    widths = [max(len(row[k]) for row in (*cells, _HEAD)) for k in range(len(_HEAD))]
    for row in (_HEAD, *cells):
        first, *others = (
            word.ljust(width) if k == 0 else word.rjust(width)
            for k, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    lines += _remarks(rows, machine)
    return "\n".join(lines) + "\n"


def _remarks(rows: Sequence[Estimate], machine: Machine) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for what, of in dict.fromkeys(reason for one in rows for reason in one.unknown):
        reasons.setdefault(what, []).append(of)
    for what, names in reasons.items():
        remedy = _KNOWN_BY.get(what, "")
        yield f"not known, so that no sum has it: {what} {', '.join(names)}{remedy}"
    need = max((one.device_gb or 0.0 for one in rows), default=0.0)
    there = machine.memory_gb
    if machine.kind == "cpu" and there is not None and need * machine.devices > there:
        yield f"{need * machine.devices:.3g} GB exceed the accelerator's memory_gb ({there:g})"


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)


# What jobs take none of, or hardly any: downloads no device, answers no disk.
_NONE = {
    "fetch_checkpoint": ("hours", "device_gb", "meanwhile_gb"),
    "sample_dataset": ("kept_gb", "meanwhile_gb"),
    "evaluate": ("kept_gb", "meanwhile_gb"),
}


def _absent(one: Estimate, key: str) -> str:
    return "" if key in _NONE.get(one.rule, ()) else "unknown"


def _time(hours: float) -> str:
    for unit, many in (("s", 3600 * hours), ("min", 60 * hours)):
        if many < 90:
            return f"{many:.0f} {unit}"
    return f"{_shown(hours)} h"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"
