"""Counting with NumPy alone: the same counts, digests and masks as the compiled kernels give."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from checkpoints_made import Stored, bf16, llama, save, updated

from subnetworks.checkpoints.numbers import encode
from subnetworks.core import kernels
from subnetworks.core.errors import UserError
from subnetworks.measuring import overlaps
from subnetworks.measuring.updates import Selection, measure, summarise

Choose = Callable[[str], None]


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> "object":
    """Choose the kernels."""

    def choose(name: str) -> None:
        monkeypatch.setenv("SUBNETWORKS_KERNELS", name)
        kernels._functions.cache_clear()

    yield choose
    kernels._functions.cache_clear()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Odd sizes, a width that hashes end within, several dtypes, NaN and infinities."""
    rng = np.random.default_rng(23)
    before: dict[str, Stored] = llama(rng, hidden=36, vocabulary=3001)
    for dtype in ("F32", "F16", "F8_E4M3"):
        before[f"model.{dtype}.weight"] = dtype, encode(rng.standard_normal((7, 911)), dtype)
    after = updated(before, rng)
    after["model.F32.weight"] = "F32", before["model.F32.weight"][1] + np.uint32(3)
    after["model.norm.weight"] = bf16(rng.standard_normal(before["model.norm.weight"][1].shape))
    for number, bits in enumerate((0x7FC0, 0x7F80, 0xFF80, 0x8000)):
        after["lm_head.weight"][1][5, number] = bits
    for name, tensors in (("before", before), ("after", after)):
        save(tmp_path / name / "model.safetensors", tensors)
    return tmp_path / "before", tmp_path / "after"


@pytest.mark.parametrize("rule", ["equal", "bit_equal", "isclose_bf16", "absolute", "relative"])
def test_measure(pair: tuple[Path, Path], tmp_path: Path, kind: Choose, rule: str) -> None:
    selection = Selection(rule, None if rule.endswith("equal") else "1e-3")
    found = []
    for name in ("compiled", "numpy"):
        kind(name)
        mask = tmp_path / f"{name}.safetensors"
        result = measure(*pair, mask=mask, selection=selection)
        found.append((summarise(result), result.digests, mask.read_bytes()))
    assert found[0] == found[1]


def test_overlap(pair: tuple[Path, Path], tmp_path: Path, kind: Choose) -> None:
    masks = []
    for rule, tolerance in (("equal", None), ("absolute", "1e-3"), ("bit_equal", None)):
        masks.append(tmp_path / f"{rule}.safetensors")
        measure(*pair, mask=masks[-1], selection=Selection(rule, tolerance))
    found = []
    for name in ("compiled", "numpy"):
        kind(name)
        found.append(
            [
                overlaps.summarise(overlaps.compare(masks[:count], magnitude, different_rules=True))
                for count, magnitude in ((2, None), (2, pair[0]), (3, None))
            ]
        )
    assert found[0] == found[1]


def test_numpy_counts_where_nothing_can_be_compiled(
    pair: tuple[Path, Path],
    kind: Choose,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = summarise(measure(*pair))
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    kind("auto")
    assert summarise(measure(*pair)) == expected
    assert "counting with NumPy" in capsys.readouterr().err
    kind("compiled")
    with pytest.raises(ImportError):
        kernels.prepare()


def test_unknown_kernels_are_refused(kind: Choose) -> None:
    kind("fortran")
    with pytest.raises(UserError, match="SUBNETWORKS_KERNELS=fortran"):
        kernels.prepare()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (40, 6, 1500), (2, 128, 33)])
def test_a_product_is_summed_in_order(kind: Choose, shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    rng = np.random.default_rng(5)
    left = rng.standard_normal((rows, inner), np.float32)
    right = rng.standard_normal((inner, columns), np.float32)
    expected = np.zeros((rows, columns), np.float32)
    for k in range(inner):
        # 64 bits of mantissa hold a product of two float32, and its sum with a third nearly always.
        wide = np.multiply.outer(left[:, k].astype(np.longdouble), right[k])
        expected = (wide + expected).astype(np.float32)
    for name in ("compiled", "numpy"):
        kind(name)
        found = np.full_like(expected, np.nan)
        kernels.multiply(left, right, found)
        assert np.array_equal(found, expected), name
