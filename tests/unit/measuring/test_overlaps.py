"""Overlaps against counts over boolean arrays, and chance against its definition."""

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from checkpoints_made import bf16, save

from subnetworks.core.errors import UserError
from subnetworks.measuring import masks, overlaps

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (401, 333),
    "model.norm.weight": (77,),
    "long": (2_100_003,),
}
Arrays = dict[str, np.ndarray]


def make(folder: Path, k: int, shares: tuple[float, ...]) -> tuple[Path, Arrays]:
    rng = np.random.default_rng(k)
    values = {
        name: rng.random(shape) < share
        for (name, shape), share in zip(SHAPES.items(), shares, strict=True)
    }
    path = folder / f"mask{k}.safetensors"
    masks.write(path, values)
    return path, values


@pytest.mark.parametrize("threads", [1, 4])
def test_two_masks(threads: int, tmp_path: Path) -> None:
    (first, a), (second, b) = (
        make(tmp_path, 0, (0.5, 1.0, 0.1)),
        make(tmp_path, 1, (0.25, 0.5, 0.3)),
    )
    summary = overlaps.summarise(overlaps.compare([first, second], threads=threads))
    n = sum(v.size for v in a.values())
    one, two = (sum(int(v.sum()) for v in m.values()) for m in (a, b))
    both = sum(int((a[name] & b[name]).sum()) for name in a)
    assert (summary["n"], summary["changed"], summary["intersection"]) == (n, [one, two], both)
    assert summary["union"] == one + two - both
    assert summary["o1"] == both / one
    assert summary["o2"] == both / two
    assert summary["jaccard"] == both / (one + two - both)
    p, q = one / n, two / n
    assert summary["chance"]["o1"] == pytest.approx(q)
    assert summary["chance"]["o2"] == pytest.approx(p)
    assert summary["chance"]["jaccard"] == pytest.approx(p * q / (p + q - p * q))
    expected = sum(a[name].sum() * b[name].sum() / a[name].size for name in a)
    assert summary["chance_per_tensor"]["o1"] == pytest.approx(expected / one)
    assert summary["chance_per_tensor"]["o2"] == pytest.approx(expected / two)
    variance = 0.0
    for name in a:
        size, k, m = a[name].size, int(a[name].sum()), int(b[name].sum())
        variance += k * (m / size) * (1 - m / size) * (size - k) / (size - 1)
    assert summary["z"] == pytest.approx((both - expected) / math.sqrt(variance))
    rows = overlaps.table(overlaps.compare([first, second]))
    assert [row["intersection"] for row in rows] == [int((a[name] & b[name]).sum()) for name in a]
    assert [(row["layer"], row["matrix"]) for row in rows][:2] == [(0, "up"), (None, "norm")]


def test_chance_matched_by_magnitude(tmp_path: Path) -> None:
    """Masks that prefer small weights independently of each other overlap as that chance says."""
    rng = np.random.default_rng(0)
    weights = {name: bf16(rng.standard_normal(shape) * 0.02) for name, shape in SHAPES.items()}
    save(tmp_path / "base" / "model.safetensors", weights)
    paths, values = [], []
    for k in range(2):
        drawn = {}
        for name, (_, bits) in weights.items():
            exponent = (bits >> 7) & 0xFF
            drawn[name] = rng.random(bits.shape) < np.where(exponent < 119, 0.6, 0.1)
        masks.write(tmp_path / f"{k}.safetensors", drawn)
        paths.append(tmp_path / f"{k}.safetensors")
        values.append(drawn)
    summary = overlaps.summarise(overlaps.compare(paths, magnitude=tmp_path / "base"))
    expected = 0.0
    for name, (_, bits) in weights.items():
        exponent = (bits >> 7) & 0xFF
        for e in np.unique(exponent):
            here = exponent == e
            expected += values[0][name][here].sum() * values[1][name][here].sum() / here.sum()
    one = sum(int(v.sum()) for v in values[0].values())
    assert summary["chance_by_magnitude"]["o1"] == pytest.approx(expected / one)
    assert abs(summary["z_by_magnitude"]) < 5
    assert summary["z"] > 50  # chance that knows nothing of |w| is far exceeded
    # In float32 the bins are the same.
    wide = {name: ("F32", bits.astype(np.uint32) << 16) for name, (_, bits) in weights.items()}
    save(tmp_path / "wide" / "model.safetensors", wide)
    again = overlaps.summarise(overlaps.compare(paths, magnitude=tmp_path / "wide"))
    assert again["chance_by_magnitude"] == summary["chance_by_magnitude"]


def test_masks_that_are_one_another(tmp_path: Path) -> None:
    path, values = make(tmp_path, 0, (0.5, 1.0, 0.1))
    summary = overlaps.summarise(overlaps.compare([path, path]))
    assert summary["o1"] == summary["o2"] == summary["jaccard"] == 1
    empty = tmp_path / "empty.safetensors"
    masks.write(empty, {name: np.zeros_like(v) for name, v in values.items()})
    nothing = overlaps.summarise(overlaps.compare([path, empty]))
    assert (nothing["o1"], nothing["o2"], nothing["z"]) == (0, None, None)


def test_consensus_of_several(tmp_path: Path) -> None:
    made = [make(tmp_path, k, (0.5, 0.9, 0.2)) for k in range(4)]
    summary = overlaps.summarise(overlaps.compare([path for path, _ in made]))
    votes = {name: sum(v[name].astype(int) for _, v in made) for name in SHAPES}
    assert summary["consensus"] == {
        str(k): sum(int((v >= k).sum()) for v in votes.values()) for k in range(1, 5)
    }
    assert len(summary["pairs"]) == 6
    two = overlaps.summarise(overlaps.compare([made[1][0], made[3][0]]))
    pair = next(p for p in summary["pairs"] if p["masks"] == two["masks"])
    assert pair["intersection"] == two["intersection"]


def test_what_is_not_common_is_listed(tmp_path: Path) -> None:
    ones = np.ones(4, np.bool_)
    masks.write(tmp_path / "a.safetensors", {"w": ones, "x": ones, "y": ones})
    masks.write(tmp_path / "b.safetensors", {"w": ones, "y": np.ones(5, np.bool_), "z": ones})
    both = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    with pytest.raises(UserError, match=r"only 23\.53% .*'y' and 2 more .*--allow-partial"):
        overlaps.compare(both)
    summary = overlaps.summarise(overlaps.compare(both, allow_partial=True))
    assert (summary["n"], summary["compared_share"]) == (4, 4 / 17)
    assert sorted(row["name"] for row in summary["excluded"]) == ["x", "y", "z"]
    masks.write(tmp_path / "c.safetensors", {"other": ones})
    with pytest.raises(UserError, match="no parameter in common"):
        overlaps.compare([tmp_path / "a.safetensors", tmp_path / "c.safetensors"])
    with pytest.raises(UserError, match="at least two"):
        overlaps.compare([tmp_path / "a.safetensors"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path, _ = make(tmp_path, 0, (0.5, 1.0, 0.1))
    save(tmp_path / "model.safetensors", {"model.norm.weight": bf16(np.ones(3))})
    with pytest.raises(UserError, match="both updates start from"):
        overlaps.compare([path, path], magnitude=tmp_path / "model.safetensors")
