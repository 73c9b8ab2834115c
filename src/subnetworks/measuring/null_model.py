"""A null model of sparsity: which entries an optimiser's settings and the init alone let change.

AdamW's normalised step moves an entry by about its learning rate, whatever the loss. If gradients
are independent noise, the displacement of an entry before rounding is close to normal, with a mean
of zero and a variance that follows from learning rates and betas. An entry changes if it leaves the
interval of numbers that the stored format rounds to its old value: half a step of bf16 to either
side, where training starts from bf16 weights. Summed over the init's weights that gives the
expected sparsity, and of two independent runs the overlap.

With a signal-to-noise ratio, an entry's gradients have a mean that is the same in every step; the
displacement drifts accordingly. The ratio's root mean square over entries (`snr`) is one measured
number more; it is taken as normal over the entries of a tensor, and of either sign.

m/√v has the moments of a linear filter of the gradients as long as v averages over many of them;
what its first few take from them is exact for normal gradients (`_attenuation`). That the sum of
the steps is normal is off by less than a point from some 25 updates on, and by up to 5 for five.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from subnetworks import checkpoints
from subnetworks.checkpoints import Tensor
from subnetworks.checkpoints.identity import digest, verify
from subnetworks.checkpoints.numbers import decode, encode
from subnetworks.checkpoints.tensors import place
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.core.schedule import Schedule, factor
from subnetworks.measuring import mask_origins
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.overlaps import ratios
from subnetworks.measuring.updates.pairing import match
from subnetworks.measuring.updates.rules import (
    PAPER,
    Rules,
    Selection,
    bf16_midpoint,
    columns,
    parse,
)

Row = dict[str, Any]
Floats = NDArray[np.float64]
Sizes = NDArray[np.float32]
EQUAL = Selection()
FORMATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""What a checkpoint's end may be rounded to, and its name in files."""
# Entries taken at a time.
_CHUNK = 1 << 20
# Equally likely signal-to-noise ratios that stand for all, and points at which their displacements'
# distribution is tabulated.
_RATIOS = 64
_KNOTS = 1 << 14
# A mean that is so many standard deviations is as good as no noise.
_LARGEST = 100.0


@dataclass(frozen=True)
class Optimiser:
    """AdamW as a run has it; names and defaults are those of a run's settings.

    Attributes:
        learning_rate: the peak of the schedule.
        steps: steps of the schedule, each of `updates_per_step` updates of the weights.
        schedule, warmup_steps: see `subnetworks.core.schedule.factor`.
        betas, weight_decay: AdamW's.
    """

    learning_rate: float
    steps: int
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    updates_per_step: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.updates_per_step < 1:
            raise UserError("steps and updates_per_step must be at least 1")
        if not self.learning_rate >= 0 or not math.isfinite(self.learning_rate):
            raise UserError(f"learning_rate: expected a number ≥ 0, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas: expected two numbers in [0, 1), got {self.betas}")

    def rates(self, steps: int) -> Floats:
        """The learning rate of every update of the first `steps`."""
        shares = [factor(k, self.steps, self.warmup_steps, self.schedule) for k in range(steps)]
        return np.repeat(self.learning_rate * np.array(shares), self.updates_per_step)


@dataclass(frozen=True)
class Displacement:
    """How far an entry is displaced before it is rounded: normal, in units of weights.

    Attributes:
        noise: standard deviation where gradients are independent, with a mean of zero.
        drift: displacement where they are the same in every step.
        decay: share of a weight that weight decay takes.
    """

    noise: float
    drift: float
    decay: float


@cache
def displacement(optimiser: Optimiser, step: int | None = None) -> Displacement:
    """The displacement after `step` steps of the optimiser's (all of them by default).

    With rates λ of the updates, each times what later decay leaves, and u = m̂/√v̂: the noise is
    the root of Σ λ_s λ_t E[u_s u_t], where for s ≤ t

        E[u_s u_t] = β₁^(t−s) · (1−β₁)(1−β₁^2s) / ((1+β₁)(1−β₁^s)(1−β₁^t)) · h(s)/h(t),

    the covariance of the bias-corrected first moment, times what v̂ of few gradients takes from it.
    """
    rates = optimiser.rates(optimiser.steps if step is None else step)
    kept = 1 - rates * optimiser.weight_decay
    later = np.append(np.cumprod(kept[::-1])[::-1][1:], 1.0)
    weights = (rates * later).tolist()
    variance = variance_of(weights, optimiser.betas)
    return Displacement(math.sqrt(variance), math.fsum(weights), 1 - float(np.prod(kept)))


def variance_of(weights: Sequence[float], betas: tuple[float, float]) -> float:
    """The variance of Σ λ_s u_s where λ_s are the `weights`, of all updates from the first on."""
    beta1, beta2 = betas
    variance = earlier = 0.0
    for number, weight in enumerate(weights, 1):
        bias = 1 - beta1**number
        attenuation = _attenuation(number, beta2)
        own = (1 - beta1) * (1 - beta1 ** (2 * number)) / (1 + beta1) / bias
        earlier *= beta1
        variance += weight / bias * (weight * own + 2 * earlier / attenuation)
        earlier += weight * own * attenuation
    return variance


def _attenuation(number: int, beta2: float) -> float:
    """h: mean of the root of v̂ after `number` updates, in units of its square mean's root.

    For normal gradients v̂ is a χ² of as many degrees of freedom as it has gradients, or, since old
    ones fade, of n = (Σ weights)² / Σ weights²; its root's mean is √(2/n) Γ((n+1)/2) / Γ(n/2).
    """
    faded = beta2**number
    n = (1 - faded) * (1 + beta2) / ((1 - beta2) * (1 + faded))
    return math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n / 2)


@cache
def numbers_of(dtype: str) -> Floats:
    """All finite numbers of a 16-bit format, ascending, 0 once."""
    positive = _sizes(dtype).astype(np.float64)
    return np.concatenate([-positive[:0:-1], positive])


def margins(weights: Sizes, dtype: str, selection: Selection = EQUAL) -> tuple[Floats, Floats]:
    """How far a weight may fall and rise before it counts as changed.

    Args:
        weights: |w| before training, any shape, float32, finite; not necessarily numbers of
            `dtype`.
        dtype: what both ends are rounded to, to nearest: BF16, F16 or F32.
        selection: the rule by which they are then compared.

    Returns the distances to either side, in units of weights. `isclose_bf16` rounds to bf16 first.
    """
    rule, bound = selection.rule, 0.0
    if selection.tolerance is not None:
        bound = parse(selection.tolerance)
    if rule == "isclose_bf16":
        dtype, bound = "BF16", float(bf16_midpoint(bound))
    exact = weights.astype(np.float64)
    before = decode(encode(weights, dtype), dtype).astype(np.float64)
    if rule == "relative":
        lowest = before * (1 - bound)
        highest = before / (1 - bound) if bound < 1 else np.full_like(before, np.inf)
    else:
        lowest, highest = before - bound, before + bound
    if dtype == "F32":
        # Its steps are taken as even, and so small that a bound lies on them.
        half = np.spacing(weights).astype(np.float64) / 2
        return np.maximum(exact - lowest, half), np.maximum(highest - exact, half)
    numbers = np.append(numbers_of(dtype), np.inf)
    above = np.minimum(np.searchsorted(numbers, highest, "right"), numbers.size - 1)
    below = np.searchsorted(numbers, lowest, "left")  # the first that is still close
    rise = (numbers[above - 1] + numbers[above]) / 2 - exact
    fall = np.where(below > 0, exact - (numbers[below - 1] + numbers[below]) / 2, np.inf)
    return fall, rise


def probability_of_change(
    weights: Sizes,
    optimiser: Optimiser,
    *,
    dtype: str = "BF16",
    selection: Selection = EQUAL,
    step: int | None = None,
    snr: float = 0.0,
) -> Floats:
    """The probability that each entry has changed, before a run is made.

    Args:
        weights: the init's, any shape, float32 (`checkpoints.numbers.decode`).
        optimiser: the run's.
        dtype: what its end is rounded to: BF16, F16 or F32.
        selection: when an entry counts as changed; Δ ≠ 0 by default.
        step: after which step; the last by default.
        snr: root mean square over entries of the gradients' mean over their standard deviation.

    Returns float64 in [0, 1], in the shape of `weights`; 0 where a weight is not finite.
    """
    size = np.abs(weights)
    size = np.where(np.isfinite(size), size, np.float32(0))
    moved = displacement(optimiser, step)
    found = _beyond(size, *margins(size, dtype, selection), moved, _mixture(moved, snr))
    return np.where(np.isfinite(weights), found, 0.0)


Below = Callable[[Floats], Floats]
"""Probability that a displacement is below a value."""


def _drifting(moved: Displacement, ratio: float) -> Below:
    """Of entries whose gradients' mean is `ratio` of their standard deviation."""
    root = math.hypot(1.0, ratio)
    mean = moved.drift * ratio / root
    # Where nothing is random, too.
    spread = max(moved.noise / root, sys.float_info.min)

    def below(value: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(ndtr((value - mean) / spread), dtype=np.float64)

    return below


def _ratios(snr: float) -> list[float]:
    """Equally likely ratios, normal with this root mean square."""
    return [float(x) for x in snr * ndtri((np.arange(_RATIOS) + 0.5) / _RATIOS)] if snr else [0.0]


@lru_cache(maxsize=16)
def _mixture(moved: Displacement, snr: float) -> Below:
    """Over entries of all ratios."""
    if not snr:
        return _drifting(moved, 0.0)
    reach = moved.drift + 9 * moved.noise
    knots = np.linspace(-reach, reach, _KNOTS)
    each = [_drifting(moved, ratio)(knots) for ratio in _ratios(snr)]
    values = np.mean(each, axis=0)

    def below(value: Floats) -> Floats:
        return np.interp(value, knots, values, 0.0, 1.0)

    return below


def _beyond(sizes: Sizes, fall: Floats, rise: Floats, moved: Displacement, below: Below) -> Floats:
    """Probability that |w| falls or rises by more than its margins."""
    shrunk = moved.decay * sizes.astype(np.float64)
    # The distribution over entries is symmetric; `below` of one entry alone need not be.
    return below(shrunk - fall) + 1.0 - below(shrunk + rise)


@dataclass(frozen=True)
class Signal:
    """What a tensor's gradients on a few batches at the init say of those to come.

    Attributes:
        snr: see `probability_of_change`.
        still: share of entries that had no gradient at all, such as embeddings of tokens that do
            not occur; they are taken to stay.
    """

    snr: float = 0.0
    still: float = 0.0


def signal_of(mean: Sizes, square: Sizes, batches: int) -> Signal:
    """Estimate a tensor's signal from gradients of independent batches.

    An entry's (Σg)²/Σg² is 1 on average if its gradients are noise, and 1 + (n−1)·r²/(1+r²) if
    their mean is r of their standard deviation. Its mean over the entries gives the root mean
    square of r, taken as normal; 0 where it says less than noise.

    Args:
        mean, square: Σg/n and Σg²/n of every entry over the batches, one shape.
        batches: n; of one there is no telling, so that it counts as noise.
    """
    moved = square > 0
    if batches < 2 or not moved.any():
        return Signal(0.0, float(1 - moved.mean()) if moved.size else 0.0)
    each = batches * mean[moved].astype(np.float64) ** 2 / square[moved]
    share = float((each.mean() - 1) / (batches - 1))
    low, high = 0.0, _LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        ratios = np.square(_ratios(middle))
        if float(np.mean(ratios / (1 + ratios))) < share:
            low = middle
        else:
            high = middle
    return Signal(low if share > 0 else 0.0, float(1 - moved.mean()))


@dataclass(frozen=True)
class Question:
    """What is asked of a null model.

    Attributes:
        optimiser: the run's.
        steps: after which of its steps, ascending.
        dtype: what checkpoints are rounded to: BF16, F16 or F32.
        rules: when an entry counts as unchanged.
    """

    optimiser: Optimiser
    steps: tuple[int, ...]
    dtype: str = "BF16"
    rules: Rules = field(default_factory=Rules)

    @property
    def selections(self) -> list[Selection]:
        """The rules one by one, as `columns` names them."""
        return [
            EQUAL,
            *(
                Selection(rule, tolerance)
                for rule in ("isclose_bf16", "absolute", "relative")
                for tolerance in getattr(self.rules, rule)
            ),
        ]


@dataclass
class Expected:
    """Expected counts of one tensor.

    Attributes:
        name: the parameter's.
        n: its entries.
        trained: those that may change (all but those outside a mask).
        signal: its gradients'.
        changed: float64, steps by rules; the first rule is Δ ≠ 0.
        both: float64, by step: entries that two independent runs change (Δ ≠ 0).
    """

    name: str
    n: int
    trained: int
    signal: Signal
    changed: Floats
    both: Floats


@dataclass
class Prediction:
    """What a null model expects of a run."""

    init: str
    digest: str
    question: Question
    mask: str | None
    tensors: list[Expected]


def predict(
    source: str | os.PathLike[str],
    question: Question,
    *,
    mask: str | os.PathLike[str] | None = None,
    signals: Mapping[str, Signal] | None = None,
) -> Prediction:
    """Expect what a run changes, from its init and its optimiser's settings.

    Weights of 16 bits are counted by their bits, so that the model is evaluated once a number; the
    time is that of reading them. Memory: a few MiB.

    Args:
        source: the init, as `checkpoints.open` takes it.
        question: what is asked.
        mask: the mask that the run trains within: what is outside stays.
        signals: each parameter's; by default there is only noise.

    Raises:
        UserError: a checkpoint that cannot be read; a mask of another; no signal of a parameter.
    """
    within = Mask.open(mask) if mask is not None else None
    with checkpoints.open(source) as checkpoint:
        verify(checkpoint)
        known = digest(checkpoint)
        if within is not None:
            mask_origins.check([within], weights=(checkpoint.source, known))
        pairs = match(checkpoint, checkpoint).values
        result = Prediction(
            checkpoint.source, known, question, None if mask is None else os.fspath(mask), []
        )
        total, done = sum(p.n for p in pairs), 0
        with Progress("predicting", total) as progress:
            for p in pairs:
                if signals is not None and p.name not in signals:
                    raise UserError(f"no gradients of {p.name!r}; give those of a run of this init")
                signal = signals[p.name] if signals is not None else Signal()
                if within is not None and (
                    p.name not in within.shapes or within.shape(p.name) != p.shape
                ):
                    raise UserError(
                        f"{within.path}: no mask of shape {p.shape} for {p.name!r}; a mask of "
                        "the same model is needed"
                    )
                result.tensors.append(_expect(p.name, p.before, question, within, signal))
                done += p.n
                progress.update(done)
    return result


def _expect(
    name: str, tensor: Tensor, question: Question, mask: Mask | None, signal: Signal
) -> Expected:
    steps = len(question.steps)
    found = Expected(
        name,
        tensor.n,
        0,
        signal,
        np.zeros((steps, len(question.selections))),
        np.zeros(steps),
    )
    narrow = tensor.dtype in ("BF16", "F16")
    counts = np.zeros(1 << 15, np.int64)
    for start in range(0, tensor.n, _CHUNK):
        stop = min(start + _CHUNK, tensor.n)
        bits = np.asarray(tensor.raw(start, stop)).reshape(-1)
        if mask is not None:
            packed = mask.packed(name, start // 8, (stop + 7) // 8)
            bits = bits[np.unpackbits(packed, count=stop - start, bitorder="little").astype(bool)]
        found.trained += bits.size
        if narrow:
            counts += np.bincount(bits & 0x7FFF, minlength=1 << 15)
            continue
        sizes = np.abs(decode(bits, tensor.dtype))
        sizes = sizes[np.isfinite(sizes)]
        edges = [margins(sizes, question.dtype, one) for one in question.selections]
        changed, both = _shares(sizes, edges, question, signal.snr)
        found.changed += changed.sum(-1)
        found.both += both.sum(-1)
    if narrow:
        _add(found, tensor.dtype, question, counts)
    found.changed *= 1 - signal.still
    found.both *= 1 - signal.still
    return found


def _add(found: Expected, dtype: str, question: Question, counts: NDArray[np.int64]) -> None:
    """Add what is expected of so many entries of each magnitude of a 16-bit format."""
    sizes = _sizes(dtype)
    counts = counts[: sizes.size]
    if found.signal.snr:
        # Of this tensor alone, so only for the numbers that it has.
        there = np.flatnonzero(counts)
        counts = counts[there]
        edges = [(fall[there], rise[there]) for fall, rise in _margins_of_all(dtype, question)]
        changed, both = _shares(sizes[there], edges, question, found.signal.snr)
    else:
        changed, both = _shares_of_all(dtype, question)
    found.changed += changed @ counts.astype(np.float64)
    found.both += both @ counts.astype(np.float64)


def _sizes(dtype: str) -> Sizes:
    """Every finite magnitude of a 16-bit format, in the order of its bits."""
    positive = decode(np.arange(1 << 15, dtype=np.uint16), dtype)
    return positive[np.isfinite(positive)]


@lru_cache(maxsize=4)
def _margins_of_all(dtype: str, question: Question) -> list[tuple[Floats, Floats]]:
    return [margins(_sizes(dtype), question.dtype, one) for one in question.selections]


@lru_cache(maxsize=4)
def _shares_of_all(dtype: str, question: Question) -> tuple[Floats, Floats]:
    return _shares(_sizes(dtype), _margins_of_all(dtype, question), question, 0.0)


def _shares(
    sizes: Sizes, edges: Sequence[tuple[Floats, Floats]], question: Question, snr: float
) -> tuple[Floats, Floats]:
    """Probability of a change (steps × rules × sizes), and that two runs have it (steps × sizes).

    Args:
        sizes: magnitudes, (sizes,).
        edges: their margins, by rule.
        question, snr: what is asked, and of which gradients.
    """
    changed = np.zeros((len(question.steps), len(edges), sizes.size))
    both = np.zeros((len(question.steps), sizes.size))
    for row, step in enumerate(question.steps):
        moved = displacement(question.optimiser, step)
        for column, margin in enumerate(edges):
            changed[row, column] = _beyond(sizes, *margin, moved, _mixture(moved, snr))
        if not snr:
            both[row] = changed[row, 0] ** 2
            continue
        # Two runs have the signal in common, and the noise each for itself.
        for ratio in (ratios := _ratios(snr)):
            alone = _beyond(sizes, *edges[0], moved, _drifting(moved, ratio))
            both[row] += alone**2 / len(ratios)
    return changed, both


def _counts(tensors: Sequence[Expected], question: Question, row: int) -> Row:
    """Expected counts over some tensors after a step, under the keys of a measurement."""
    n = sum(t.n for t in tensors)
    changed = sum((t.changed[row] for t in tensors), np.zeros(len(question.selections)))
    same = dict(zip(("equal", *columns(question.rules)), (n - changed).tolist(), strict=True))
    found: Row = {"n": n, "equal": same["equal"]}
    for rule in ("isclose_bf16", "absolute", "relative"):
        found[rule] = {t: same[f"{rule}_{t}"] for t in getattr(question.rules, rule)}
    found["changed"] = float(changed[0])
    found["sparsity"] = found["isclose_bf16"][PAPER] / n if n else None
    return found


def summarise(prediction: Prediction) -> Row:
    """The JSON summary: expected counts under the keys of `updates.summarise`.

    In all, without embeddings and by tensor after the last step, and in all after each step, there
    with the spread of the displacements (units of weights) and the overlap of two independent runs'
    masks (Δ ≠ 0), whose o1 and o2 are the same.
    """
    question, tensors = prediction.question, prediction.tensors
    inner = [t for t in tensors if not place(t.name).is_embedding_or_head]
    rows = []
    for row, step in enumerate(question.steps):
        moved = displacement(question.optimiser, step)
        counts = _counts(tensors, question, row)
        both = float(sum(t.both[row] for t in tensors))
        rows.append(
            {
                "step": step,
                "noise": moved.noise,
                "drift": moved.drift,
                "decay": moved.decay,
                **counts,
                "two_runs": {
                    "intersection": both,
                    **ratios(counts["n"], counts["changed"], counts["changed"], both),
                },
            }
        )
    last = len(question.steps) - 1
    return {
        "init": prediction.init,
        "digest": prediction.digest,
        "mask": prediction.mask,
        "settings": asdict(question.optimiser),
        "compared_as": question.dtype,
        "noise_alone": all(t.signal == Signal() for t in tensors),
        "trained": sum(t.trained for t in tensors),
        **_counts(tensors, question, last),
        "two_runs": rows[last]["two_runs"],
        "without_embeddings": _counts(inner, question, last),
        "steps": rows,
        "tensors": [
            {
                "name": t.name,
                "layer": place(t.name).layer,
                "matrix": place(t.name).matrix,
                "trained": t.trained,
                **asdict(t.signal),
                **_counts([t], question, last),
            }
            for t in tensors
        ],
    }


def table(prediction: Prediction) -> list[Row]:
    """One flat row per tensor and step, for a Parquet table; counts are expected ones."""
    question = prediction.question
    names = ("equal", *columns(question.rules))
    return [
        {
            "name": t.name,
            "layer": place(t.name).layer,
            "matrix": place(t.name).matrix,
            "step": step,
            "n": t.n,
            "trained": t.trained,
            **asdict(t.signal),
            **dict(zip(names, (t.n - t.changed[row]).tolist(), strict=True)),
            "both": float(t.both[row]),
        }
        for t in prediction.tensors
        for row, step in enumerate(question.steps)
    ]
