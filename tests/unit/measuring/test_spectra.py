"""Ranks against torch's SVD, and the gentler ones against their definitions."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from checkpoints_made import bf16, llama, save, updated  # noqa: E402

from subnetworks.checkpoints.numbers import round_to  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import spectra  # noqa: E402
from subnetworks.measuring.spectra import linear  # noqa: E402
from subnetworks.measuring.spectra.linear import LapackGram, TorchGram  # noqa: E402
from subnetworks.measuring.spectra.rotation import rotation  # noqa: E402

SHAPES = [
    (1, 1),
    (1, 40),
    (7, 5),
    (64, 64),
    (96, 33),
    (40, 200),
    (130, 130),
    (200, 40),
    (300, 260),
    (257, 700),
]


def dense(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    return (rng.standard_normal((m, n)) * 1e-4).astype(np.float32)


def sparse(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    return np.where(rng.random((m, n)) < 0.2, dense(rng, m, n), np.float32(0))


def empty_rows_and_columns(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    matrix = sparse(rng, m, n)
    matrix[rng.random(m) < 0.3] = 0
    matrix[:, rng.random(n) < 0.1] = 0
    return matrix


def low_rank(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    k = max(1, min(m, n) // 8)
    return (dense(rng, m, k) @ dense(rng, k, n)).astype(np.float32)


def low_rank_rounded(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    """A low-rank update of bfloat16 weights: the rounding fills it up."""
    weights = round_to((rng.standard_normal((m, n)) * 0.02).astype(np.float32), "BF16")
    return round_to(weights + 1e3 * low_rank(rng, m, n), "BF16") - weights


KINDS = [dense, sparse, empty_rows_and_columns, low_rank, low_rank_rounded]


def exact_singular_values(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("spectrum", [True, False], ids=["spectrum", "rank"])
def test_rank_is_torchs(kind: object, shape: tuple[int, int], spectrum: bool) -> None:
    rng = np.random.default_rng(sum(shape) + KINDS.index(kind))  # type: ignore[arg-type]
    matrix = kind(rng, *shape)  # type: ignore[operator]
    found = spectra.ranks_of(spectra.gram_of(matrix), max(shape), spectrum=spectrum)
    theirs = int(torch.linalg.matrix_rank(torch.from_numpy(matrix)))
    values = exact_singular_values(matrix)
    threshold = values[0] * max(shape) * np.finfo(np.float32).eps
    near = np.abs(values / threshold - 1).min() if values[0] else 1.0
    assert found.rank_low <= found.rank <= found.rank_high
    assert found.rank == (values > threshold).sum() or near < 1e-6
    # Only where a singular value is next to the threshold may torch's float32 see another number,
    # and that is flagged.
    if found.rank_low == found.rank_high:
        assert found.rank == theirs
    if near < 0.9e-3:
        assert found.rank_low != found.rank_high
    if near > 1.1e-3:
        assert found.rank_low == found.rank_high


@pytest.mark.parametrize("spectrum", [True, False], ids=["spectrum", "rank"])
def test_singular_values_at_the_threshold_are_borderline(spectrum: bool) -> None:
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((300, 280)))
    v, _ = np.linalg.qr(rng.standard_normal((280, 280)))
    values = np.geomspace(1, 0.1, 280)
    values[-5:] = 300 * np.finfo(np.float32).eps * (1 + np.array([3e-4, -3e-4, 3e-4, -3e-4, -3e-4]))
    gram = spectra.gram_of((u * values) @ v.T)  # in float64: nothing rounds it
    found = spectra.ranks_of(gram, 300, spectrum=spectrum)
    assert (found.rank_low, found.rank, found.rank_high) == (275, 277, 280)


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_gentler_ranks_by_their_definitions(device: str) -> None:
    matrix = sparse(np.random.default_rng(1), 90, 60)
    gram = LapackGram(60) if device == "cpu" else TorchGram(60, "cpu")
    gram.add(matrix.T)
    found = spectra.ranks_of(gram, 90)
    values = exact_singular_values(matrix)
    shares = values / values.sum()
    energy = np.cumsum(values**2) / (values**2).sum()
    assert found.sigma_max == pytest.approx(values[0])
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert found.energy_rank_99 == int((energy < 0.99).sum()) + 1
    assert found.ranks_at == {
        t: int((values > t * values[0]).sum()) for t in (1e-6, 1e-5, 1e-4, 1e-3)
    }


@pytest.mark.parametrize("kind", [dense, sparse, low_rank_rounded])
def test_large_matrices_have_the_same_eigenvalues_with_and_without_torch(
    kind: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = kind(np.random.default_rng(2), 300, 500)  # type: ignore[operator]
    gram = spectra.gram_of(matrix)
    ours = gram.eigenvalues()
    monkeypatch.setattr(linear, "_LARGE", 200)
    assert gram.eigenvalues() == pytest.approx(ours, abs=1e-13 * ours[-1])
    monkeypatch.setattr(linear, "find_spec", lambda name: None)
    assert (gram.eigenvalues() == ours).all()


def test_an_unchanged_matrix_has_rank_zero() -> None:
    found = spectra.ranks_of(spectra.gram_of(np.zeros((30, 50), np.float32)), 50)
    assert (found.rank, found.rank_low, found.rank_high, found.stable_rank) == (0, 0, 0, None)


def test_inertia_counts_through_two_by_two_pivots() -> None:
    rng = np.random.default_rng(3)
    for size in (2, 3, 17, 120):
        symmetric = rng.standard_normal((size, size))
        symmetric = symmetric + symmetric.T
        symmetric[np.diag_indices(size)] = 0  # forces 2 × 2 pivots
        gram = LapackGram(size)
        gram._lower = np.asfortranarray(np.tril(symmetric))
        values = np.linalg.eigvalsh(symmetric)
        for threshold in (0.0, *((values[1:] + values[:-1]) / 2)[:: max(1, size // 7)]):
            assert gram.above(float(threshold)) == (values > threshold).sum()


def test_an_update_is_ranked_matrix_by_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    before = llama(rng) | {
        "model.layers.0.mlp.experts.down_proj": bf16(rng.standard_normal((3, 8, 20)))
    }
    after = updated(before, rng)
    after["model.layers.1.self_attn.q_proj.weight"] = before[
        "model.layers.1.self_attn.q_proj.weight"
    ]
    for name, tensors in (("a", before), ("b", after)):
        save(tmp_path / name / "model.safetensors", tensors)
    found = spectra.ranks(tmp_path / "a", tmp_path / "b", angles=4)
    together = spectra.ranks(tmp_path / "a", tmp_path / "b", workers=3)
    assert [(s.name, s.ranks) for s in together] == [(s.name, s.ranks) for s in found]
    named = {s.name: s for s in found}
    expected = {}
    for name, (_, bits) in before.items():
        x, y = (
            torch.from_numpy(t.view(np.int16).copy()).view(torch.bfloat16)
            for t in (bits, after[name][1])
        )
        delta = (y - x).float()
        if delta.ndim == 2:
            expected[name] = int(torch.linalg.matrix_rank(delta))
        elif delta.ndim == 3:
            expected |= {f"{name}[{k}]": int(torch.linalg.matrix_rank(delta[k])) for k in range(3)}
    assert {name: s.ranks.rank for name, s in named.items() if not s.borderline} == {
        name: rank for name, rank in expected.items() if not named[name].borderline
    }
    assert set(named) == set(expected)
    summary = spectra.summarise("a", "b", found)
    assert summary["matrices"] == len(expected)
    assert summary["unchanged"] == 1
    assert summary["min_rank"] == 0
    fractions = [s.ranks.rank / min(s.rows, s.columns) for s in found]
    assert summary["mean_rank"] == pytest.approx(np.mean(fractions))
    inner = [
        f
        for s, f in zip(found, fractions, strict=True)
        if "embed" not in s.name and "head" not in s.name
    ]
    assert summary["mean_rank_without_embeddings"] == pytest.approx(np.mean(inner))
    rows = spectra.table(found)
    assert rows[0]["rank_at_1e-6"] >= rows[0]["rank_at_1e-3"]
    unturned = next(row for row in rows if row["name"] == "model.layers.1.self_attn.q_proj.weight")
    assert unturned["left_angle_max"] == pytest.approx(0, abs=1e-5)
    assert unturned["spectral_drift"] == 0


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_a_matrix_read_by_few_rows_has_the_rank_of_the_whole(
    shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    name = "model.layers.0.mlp.up_proj.weight"
    update = rng.integers(-3, 4, (shape[0], 7)) @ rng.integers(-3, 4, (7, shape[1]))
    save(tmp_path / "before.safetensors", {name: bf16(np.zeros(shape))})
    save(tmp_path / "after.safetensors", {name: bf16(update)})
    monkeypatch.setattr(spectra, "_PIECE", 3 * shape[1])
    (found,) = spectra.ranks(tmp_path / "before.safetensors", tmp_path / "after.safetensors")
    largest = np.linalg.svd(update.astype(np.float64), compute_uv=False)[0]
    assert found.ranks.rank == 7
    assert found.ranks.sigma_max == pytest.approx(largest)


def test_no_rank_of_what_is_no_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    before = llama(rng)
    after = updated(before, rng)
    after["lm_head.weight"][1][3, 4] = 0x7FC0
    for name, tensors in (("a", before), ("b", after)):
        save(tmp_path / name / "model.safetensors", tensors)
    found = spectra.ranks(tmp_path / "a", tmp_path / "b")
    assert found.not_finite == ["lm_head.weight"]
    assert "lm_head.weight" not in {one.name for one in found}
    summary = spectra.summarise("a", "b", found)
    assert summary["not_finite"] == ["lm_head.weight"]
    assert summary["matrices"] == len(found) == 2 * 7 + 1
    for _, bits in after.values():
        bits.reshape(-1)[0] = 0x7F80
    save(tmp_path / "b" / "model.safetensors", after)
    with pytest.raises(UserError, match=r"embed_tokens\.weight.* none has a rank"):
        spectra.ranks(tmp_path / "a", tmp_path / "b")


def test_angles_of_a_known_rotation() -> None:
    angle = np.radians(3.0)
    before = np.diag([5.0, 3.0, 1.0, 0.5])
    turn = np.eye(4)
    turn[np.ix_([1, 2], [1, 2])] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = rotation(before, turn @ before, k=2)
    assert found.left == pytest.approx([0, 3], abs=1e-5)
    assert found.right == pytest.approx([0, 0], abs=1e-5)
    assert found.drift == pytest.approx(0, abs=1e-12)
    doubled = rotation(before, 2 * before, k=2)
    assert doubled.drift == pytest.approx(1)


def test_randomised_angles_agree_with_exact() -> None:
    rng = np.random.default_rng(6)
    u, _ = np.linalg.qr(rng.standard_normal((120, 80)))
    v, _ = np.linalg.qr(rng.standard_normal((80, 80)))
    before = (u * np.geomspace(1, 1e-3, 80)) @ v.T
    after = before + 1e-3 * rng.standard_normal(before.shape)
    exact = rotation(before, after, k=4)
    found = rotation(before, after, k=4, exact=False)
    assert exact.exact
    assert not found.exact
    assert found.residual < 1e-3
    assert found.left == pytest.approx(exact.left, abs=1e-3)
    assert found.right == pytest.approx(exact.right, abs=1e-3)
