"""Every rule, mask and histogram against plain references, over all kinds of bits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402

from subnetworks.checkpoints.numbers import MAGNITUDE, decode, round_to  # noqa: E402
from subnetworks.core import kernels  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.kernels import Counts, layout  # noqa: E402
from subnetworks.measuring.updates.measuring import compiled  # noqa: E402
from subnetworks.measuring.updates.rules import Rules, Selection, bf16_midpoint  # noqa: E402
from subnetworks.measuring.updates.with_torch import TorchCounter  # noqa: E402

TORCH = {
    "BF16": (torch.int16, torch.bfloat16),
    "F16": (torch.int16, torch.float16),
    "F32": (torch.int32, torch.float32),
    "F8_E4M3": (torch.uint8, torch.float8_e4m3fn),
    "F8_E5M2": (torch.uint8, torch.float8_e5m2),
}
WIDTH = {"BF16": 16, "F16": 16, "F32": 32, "F8_E4M3": 8, "F8_E5M2": 8}
RULES = Rules(
    isclose_bf16=("0", "1e-40", "1e-8", "1e-5", "1e-4", "0.5", "1e38"),
    absolute=("0", "1e-8", "1e-5", "0.1"),
    relative=("0", "1e-3", "0.00390625", "0.01", "0.5", "2", "3"),
)
SELECTIONS = (
    Selection(),
    Selection("bit_equal"),
    Selection("isclose_bf16", "1e-5"),
    Selection("absolute", "1e-5"),
    Selection("relative", "0.01"),
    Selection("relative", "3"),
)


def tensor_of(bits: np.ndarray, dtype: str) -> torch.Tensor:
    integer, float_ = TORCH[dtype]
    signed = bits if bits.itemsize == 1 else bits.view(f"i{bits.itemsize}")
    return torch.from_numpy(signed.copy()).view(integer).view(float_)


def holds(a: np.ndarray, b: np.ndarray, dtype: str) -> dict[tuple[str, str | None], np.ndarray]:
    """Which entries are equal under each rule, by float64 arithmetic and by torch."""
    x, y = tensor_of(a, dtype), tensor_of(b, dtype)
    f, g = x.double().numpy(), y.double().numpy()
    finite = np.isfinite(f) & np.isfinite(g)
    with np.errstate(all="ignore"):
        difference = np.abs(g - f)
        larger = np.maximum(np.abs(f), np.abs(g))
        found: dict[tuple[str, str | None], np.ndarray] = {
            ("equal", None): finite & (difference == 0),
            ("bit_equal", None): a == b,
        }
        # The authors': both in bfloat16, subtracted there, compared there.
        delta = y.bfloat16() - x.bfloat16()
        for t in RULES.isclose_bf16:
            close = torch.isclose(delta, torch.zeros_like(delta), atol=float(t)).numpy()
            # Where the values are finite but too large for bfloat16, Δ is no number there.
            found["isclose_bf16", t] = close
        for t in RULES.absolute:
            found["absolute", t] = finite & (difference.astype(np.float32) <= np.float32(t))
        for t in RULES.relative:
            # The product of two float32 is exact in float64.
            bound = (np.float64(np.float32(t)) * larger).astype(np.float32)
            found["relative", t] = finite & (difference.astype(np.float32) <= bound)
    return found


def ordinal(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Position among the format's values, both zeros at 0."""
    sign = 1 << (WIDTH[dtype] - 1)
    wide = bits.astype(np.int64)
    return np.where(wide & sign, -(wide & (sign - 1)), wide)


def count(
    a: np.ndarray, b: np.ndarray, dtype: str, selection: Selection, way: str
) -> tuple[Counts, np.ndarray]:
    rule = compiled(RULES, selection)
    counts = Counts(rule.bounds.size)
    mask = np.full((a.size + 7) // 8, 0xA5, np.uint8)
    if way == "fast":
        kernels.count_bf16(a, b, rule, mask, counts, kernels.scratch())
    elif way == "torch" and dtype == "BF16":
        TorchCounter("cpu", rule).count_bf16(a, b, mask, counts)
    else:
        values = decode(a, dtype), decode(b, dtype)
        rounded = tuple(round_to(v, "BF16") for v in values)
        bits = a.astype(np.uint32), b.astype(np.uint32)
        if way == "torch":
            torch_counter = TorchCounter("cpu", rule)
            torch_counter.count_any(bits, values, rounded, MAGNITUDE[dtype], mask, counts)
        else:
            kernels.count_any(bits, values, rounded, MAGNITUDE[dtype], rule, mask, counts)
    return counts, mask


def check(a: np.ndarray, b: np.ndarray, dtype: str) -> None:
    expected = holds(a, b, dtype)
    f, g = (decode(v, dtype) for v in (a, b))
    finite = np.isfinite(f) & np.isfinite(g)
    step = np.abs(ordinal(b, dtype) - ordinal(a, dtype))[finite]
    exponent = (np.ascontiguousarray(f).view(np.uint32) >> 23) & 0xFF
    for selection in SELECTIONS:
        for way in ("fast", "any", "torch") if dtype == "BF16" else ("any", "torch"):
            got, mask = count(a, b, dtype, selection, way)
            numbers = dict(
                zip(
                    [("isclose_bf16", t) for t in RULES.isclose_bf16]
                    + [("absolute", t) for t in RULES.absolute]
                    + [("relative", t) for t in RULES.relative],
                    got.counts[layout.TOLERANCES :].tolist(),
                    strict=True,
                )
            )
            numbers["equal", None] = int(got.counts[layout.EQUAL])
            numbers["bit_equal", None] = int(got.counts[layout.BIT_EQUAL])
            assert numbers == {key: int(value.sum()) for key, value in expected.items()}
            chosen = ~expected[selection.rule, selection.tolerance]
            assert np.array_equal(np.unpackbits(mask, bitorder="little")[: a.size], chosen)
            assert not np.unpackbits(mask, bitorder="little")[a.size :].any()
            assert got.counts[layout.SELECTED] == chosen.sum()
            assert got.counts[layout.NAN_BEFORE] == np.isnan(f).sum()
            assert got.counts[layout.NAN_AFTER] == np.isnan(g).sum()
            assert got.counts[layout.INF_BEFORE] == np.isinf(f).sum()
            assert got.counts[layout.INF_AFTER] == np.isinf(g).sum()
            assert got.counts[layout.NONFINITE] == (~finite).sum()
            assert got.counts[layout.NONFINITE_BIT_EQUAL] == ((a == b) & ~finite).sum()
            assert got.steps.sum() == finite.sum()
            reach = 0
            for k in range(layout.STEP_BINS):
                assert got.steps[: k + 1].sum() == (step <= reach).sum(), f"bin {k}"
                reach = 1 << k
            changed = ~expected["equal", None]
            assert np.array_equal(got.exponents[0], np.bincount(exponent, minlength=256))
            assert np.array_equal(got.exponents[1], np.bincount(exponent[changed], minlength=256))


@st.composite
def pairs(draw: st.DrawFn, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Any bits, near neighbours, other signs, or unchanged; sizes around block boundaries."""
    width = WIDTH[dtype]
    size = draw(st.sampled_from([0, 1, 7, 8, 9, 63, 64, 100, 2047, 2048, 2049, 9000]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["any", "weights", "pruned", "tiny", "special"]))
    unsigned = np.dtype(f"u{width // 8}")
    if kind in ("weights", "pruned") and dtype in ("BF16", "F32", "F16"):
        values = (rng.standard_normal(size) * 0.02).astype(np.float32)
        if kind == "pruned":
            values[rng.random(size) < 0.5] = 0
        if dtype == "F16":
            a = values.astype(np.float16).view(np.uint16)
        else:
            a = (values.view(np.uint32) >> (32 - width)).astype(unsigned)
    elif kind == "tiny":
        a = rng.integers(0, 40, size).astype(unsigned)
    elif kind == "special":
        top = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C}
        sign = 1 << (width - 1)
        chosen = [0, sign, 1, sign | 1, top[dtype], top[dtype] - 1, top[dtype] | sign, sign - 1]
        a = rng.choice(np.array(chosen, dtype=unsigned), size)
    else:
        a = rng.integers(0, 1 << width, size, dtype=np.uint64).astype(unsigned)
    share = draw(st.sampled_from([0.0, 0.001, 0.3, 1.0]))
    step = rng.integers(-3, 4, size)
    b = np.where(rng.random(size) < share, (a + step).astype(unsigned), a)
    flip = draw(st.sampled_from([0.0, 0.01]))
    b = np.where(rng.random(size) < flip, b ^ unsigned.type(1 << (width - 1)), b)
    few = draw(hnp.arrays(unsigned, min(size, 5)))
    b[: few.size] = few
    return a, b.astype(unsigned)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F8_E4M3", "F8_E5M2"])
def test_every_rule_counts_what_the_reference_counts(dtype: str) -> None:
    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    @hypothesis.given(pairs(dtype))
    def run(pair: tuple[np.ndarray, np.ndarray]) -> None:
        check(*pair, dtype)

    run()


def test_all_65536_bfloat16_before_and_after() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    for shift in (0, 1, 0x8000, 0x4000, 12345):
        check(every, (every + shift).astype(np.uint16), "BF16")


def test_differences_beyond_the_largest_float32() -> None:
    huge = np.full(2048, 0x7F7F, np.uint16)
    check(huge, huge ^ np.uint16(0x8000), "BF16")


def test_magnitudes_that_change_from_block_to_block() -> None:
    # Exponents are counted from the largest down, sixteen at a time; it moves up and down here.
    rng = np.random.default_rng(11)
    values = rng.standard_normal((14, 2048)).astype(np.float32)
    values *= np.float32(2.0) ** np.array(
        [[-6], [-6], [3], [-60], [-60], [-61], [-6], [100], [-120], [-6], [-6], [-6], [0], [-6]],
        dtype=np.float32,
    )
    values[9, 5] = 2.0**90
    values[10, ::2] = 0
    values[11] *= np.float32(2.0) ** rng.integers(-40, 40, 2048).astype(np.float32)
    a = (values.ravel().view(np.uint32) >> 16).astype(np.uint16)[:-100]
    b = np.where(rng.random(a.size) < 0.3, a + 1, a).astype(np.uint16)
    check(a, b, "BF16")


def test_midpoint_agrees_with_isclose_on_every_bfloat16_difference() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    differences = tensor_of(every, "BF16")
    for tolerance in (0.0, 1e-40, 1e-8, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1.0, 1e30):
        theirs = torch.isclose(differences, torch.zeros_like(differences), atol=tolerance)
        ours = differences.float().abs() <= float(bf16_midpoint(tolerance))
        assert torch.equal(theirs, ours), tolerance
    assert float(bf16_midpoint(1e-5)) == pytest.approx(1.0043383e-5, rel=1e-7)


def test_the_same_counts_however_a_tensor_is_cut() -> None:
    rng = np.random.default_rng(5)
    a = rng.integers(0, 1 << 16, 10_000, dtype=np.uint16)
    b = np.where(rng.random(a.size) < 0.5, a, a + 1).astype(np.uint16)
    whole, _ = count(a, b, "BF16", Selection(), way="fast")
    parts = Counts(whole.counts.size - layout.TOLERANCES)
    for start in range(0, a.size, 1234):
        part, _ = count(
            a[start : start + 1234], b[start : start + 1234], "BF16", Selection(), way="fast"
        )
        parts.add(part)
    assert np.array_equal(whole.counts, parts.counts)
    assert np.array_equal(whole.steps, parts.steps)
    assert np.array_equal(whole.exponents, parts.exponents)


@pytest.mark.parametrize("tolerance", ["", "abc", "-1e-5", "nan", "inf"])
def test_a_tolerance_that_is_no_number_is_refused(tolerance: str) -> None:
    with pytest.raises(UserError, match="tolerance"):
        Rules(absolute=(tolerance,))


def test_the_papers_tolerance_is_always_counted() -> None:
    assert Rules(isclose_bf16=("1e-4",)).isclose_bf16 == ("1e-4", "1e-5")


@pytest.mark.parametrize(
    ("rule", "tolerance"), [("equals", None), ("equal", "1"), ("absolute", None)]
)
def test_a_mask_rule_needs_its_tolerance(rule: str, tolerance: str | None) -> None:
    with pytest.raises(UserError):
        Selection(rule, tolerance)


OF_ANOTHER_PROCESSOR = """
import json, sys
import numpy as np
import test_rules as rules

generator = np.random.default_rng(7)
found = []
for share in (0.05, 0.3, 0.98):
    a, b = rules.drifted(generator, 9001, share)
    for selection in rules.SELECTIONS:
        counts, mask = rules.count(a, b, "BF16", selection, "fast")
        numbers = [counts.counts, counts.steps, counts.exponents.ravel(), mask]
        found.append([part.tolist() for part in numbers])
left, right = (generator.standard_normal(shape, np.float32) for shape in ((5, 7), (7, 1100)))
out = np.empty((5, 1100), np.float32)
rules.kernels.multiply(left, right, out)
found.append(out.tolist())
json.dump(found, sys.stdout)
"""


def drifted(generator: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights before and after as bits, of which about `share` moved."""
    values = generator.standard_normal(n, dtype=np.float32) * np.float32(0.02)
    a = (values.view(np.uint32) >> 16).astype(np.uint16)
    steps = generator.integers(-3, 4, n) * (generator.random(n) < share)
    return a, (a.astype(np.int64) + steps).astype(np.uint16)


def test_a_processor_without_wide_vectors_counts_the_same(tmp_path: Path) -> None:
    # The oldest that any 64-bit x86 is, no AVX at all, and one without AVX-512: they gather, and
    # count exponents, in other ways.
    cache = {"SUBNETWORKS_CACHE": str(tmp_path)}
    plain = {"NUMBA_CPU_NAME": "x86-64", **cache}
    laptop = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+popcnt,+bmi", **cache}
    printed = []
    for own in ({}, plain, laptop):
        done = subprocess.run(
            [sys.executable, "-c", OF_ANOTHER_PROCESSOR],
            env={**os.environ, **own, "PYTHONPATH": os.pathsep.join([*sys.path[:1], *sys.path])},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] == printed[2]
