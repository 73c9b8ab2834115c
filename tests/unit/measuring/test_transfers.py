"""What masks hold of an update, counted again over whole arrays."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from checkpoints_made import bf16, save

from subnetworks.core.errors import UserError
from subnetworks.measuring import masks, transfers


def values(stored: tuple[str, np.ndarray]) -> np.ndarray:
    return (stored[1].astype(np.uint32) << 16).view(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights over many powers of two, and Δ; one tensor longer than a piece."""
    rng = np.random.default_rng(0)
    before, after, start, delta = {}, {}, {}, {}
    for name, n in (("model.norm.weight", 77), ("long", transfers._CHUNK + 1001)):
        w = (rng.standard_normal(n) * 2.0 ** rng.integers(-9, 3, n)).astype(np.float32)
        before[name] = bf16(w)
        after[name] = bf16(w + (rng.random(n) < 0.3) * rng.standard_normal(n) * 0.01)
        start[name] = values(before[name])
        moved = values(after[name]) - start[name]
        delta[name] = values(bf16_rounded(moved))
    save(tmp_path / "before.safetensors", before)
    save(tmp_path / "after.safetensors", after)
    return tmp_path / "before.safetensors", tmp_path / "after.safetensors", start, delta


def bf16_rounded(x: np.ndarray) -> tuple[str, np.ndarray]:
    """To nearest, ties to even."""
    wide = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return "BF16", ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)


def test_shares_and_chances(
    pair: tuple[Path, Path, dict[str, np.ndarray], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    before, after, start, delta = pair
    rng = np.random.default_rng(1)
    mask = {name: rng.random(w.size) < 0.2 + 0.5 * (abs(w) < 0.01) for name, w in start.items()}
    masks.write(tmp_path / "mask.safetensors", mask)
    every = {name: np.ones(w.size, bool) for name, w in start.items()}
    masks.write(tmp_path / "every.safetensors", every)
    paths = [tmp_path / "mask.safetensors", tmp_path / "every.safetensors"]
    some, everything = (transfers.summarise_mask(p) for p in transfers.within(before, after, paths))
    for kind, of in (("changed", np.sign), ("mass", np.asarray), ("energy", np.square)):
        sizes = {name: of(np.abs(d.astype(np.float64))) for name, d in delta.items()}
        total = sum(size.sum() for size in sizes.values())
        held = sum(sizes[name][mask[name]].sum() for name in mask)
        assert some[kind]["total"] == pytest.approx(total)
        assert some[kind]["share"] == pytest.approx(held / total)
        assert everything[kind]["share"] == pytest.approx(1)
        assert everything[kind]["chance_by_magnitude"] == pytest.approx(1)
        per_tensor = sum(mask[name].mean() * sizes[name].sum() for name in mask)
        assert some[kind]["chance_per_tensor"] == pytest.approx(per_tensor / total)
        by_magnitude = 0.0
        for name, w in start.items():
            exponent = np.floor(np.log2(np.maximum(np.abs(w), 2.0**-127)))
            for e in np.unique(exponent):
                same = exponent == e
                by_magnitude += mask[name][same].mean() * sizes[name][same].sum()
        assert some[kind]["chance_by_magnitude"] == pytest.approx(by_magnitude / total)
    assert some["inside"] == sum(int(bits.sum()) for bits in mask.values())


def test_nothing_moved_has_no_share(tmp_path: Path) -> None:
    save(tmp_path / "same.safetensors", {"w": bf16(np.ones((3, 4), np.float32))})
    masks.write(tmp_path / "mask.safetensors", {"w": np.ones((3, 4), bool)})
    same = tmp_path / "same.safetensors"
    (parts,) = transfers.within(same, same, [tmp_path / "mask.safetensors"])
    summary = transfers.summarise_mask(parts)
    assert (summary["mass"]["share"], summary["mass"]["chance_by_magnitude"]) == (None, None)


def test_the_verb_and_a_mask_of_another_model(
    pair: tuple[Path, Path, dict[str, np.ndarray], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    before, after, start, _ = pair
    masks.write(tmp_path / "mask.safetensors", {n: np.ones(w.size, bool) for n, w in start.items()})
    command = [sys.executable, "-m", "subnetworks", "transfer", before, after]
    options = [tmp_path / "mask.safetensors", "--json", tmp_path / "t.json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100.00%" in done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["masks"][0]["mass"]["share"] == 1
    masks.write(tmp_path / "other.safetensors", {"w": np.ones(3, bool)})
    with pytest.raises(UserError, match=r"'model\.norm\.weight' is absent or of another shape"):
        transfers.within(before, after, [tmp_path / "other.safetensors"])
