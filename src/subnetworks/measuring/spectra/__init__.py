"""Spectra of an update's matrices: exact rank without an SVD, and gentler ranks beside it.

All are exact, at any size: the eigenvalues of a Gram matrix in float64 take no longer than the
matrix itself, and a Llama-3.1-8B about a quarter of an hour on two cores.

Rank follows `torch.linalg.matrix_rank(Δ.float())` (Section 4 of the paper): singular values above
τ = σ_max · max(rows, columns) · eps₃₂. It is counted on the smaller Gram matrix G of Δ in
float64: eigenvalues above τ² or, where nothing else is wanted, the inertia of G − τ²I.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from subnetworks import checkpoints
from subnetworks.checkpoints.identity import verify
from subnetworks.checkpoints.numbers import decode, round_to
from subnetworks.checkpoints.tensors import place
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.measuring.spectra.linear import LapackGram, TorchGram, empty_gram
from subnetworks.measuring.spectra.ranks import TOLERANCES, Ranks, ranks_of
from subnetworks.measuring.spectra.rotation import Rotation, rotation
from subnetworks.measuring.updates.coverage import Excluded, Kind
from subnetworks.measuring.updates.measuring import check_device
from subnetworks.measuring.updates.pairing import Match, Pair, match

__all__ = ["Ranks", "Rotation", "Spectrum", "gram_of", "ranks", "ranks_of", "rotation", "table"]

# Entries of a matrix read at a time where it can be read by rows.
_PIECE = 1 << 22

# A matrix of an update: pair, name, flat start, rows, columns.
_Matrix = tuple[Pair, str, int, int, int]


@dataclass(frozen=True)
class Spectrum:
    """One matrix of an update: which, its shape, its ranks, and how far it was turned."""

    pair: Pair
    name: str
    rows: int
    columns: int
    ranks: Ranks
    rotation: Rotation | None = None

    @property
    def full_rank(self) -> int:
        """min(rows, columns)."""
        return min(self.rows, self.columns)

    @property
    def rank_fraction(self) -> float:
        """rank / full rank."""
        return self.ranks.rank / self.full_rank

    @property
    def borderline(self) -> bool:
        """Whether a singular value is within 1e-3 of the threshold."""
        return self.ranks.rank_low != self.ranks.rank_high


class Spectra(list[Spectrum]):
    """The spectra of an update's matrices, and how much of it they are.

    Attributes:
        compared_share: matrices whose rank was taken, of all that both checkpoints have together.
        excluded, names, notes: as in `subnetworks.measuring.updates.pairing.Match`.
        not_finite: matrices that have no rank, since their update holds NaN or infinities.
    """

    compared_share: float = 1.0
    excluded: list[Excluded]
    names: dict[str, Any]
    notes: list[str]
    not_finite: list[str]

    def __init__(self, found: Match) -> None:
        super().__init__()
        ranked = sum(1 for _ in matrices(found.pairs))
        missed = {e.name: _matrices_in(e) for e in found.excluded if _matrices_in(e)}
        whole = ranked + sum(missed.values())
        self.compared_share = ranked / whole if whole else 1.0
        self.excluded, self.names, self.notes = found.excluded, found.names, found.notes
        self.not_finite = []


def _matrices_in(entry: Excluded) -> int:
    """Matrices that were left out with a tensor; rows of a matrix are none."""
    if not entry.n or entry.kind is Kind.OTHER_ROWS or place(entry.name).matrix == "norm":
        return 0
    return {2: 1, 3: entry.shape[0]}.get(len(entry.shape), 0)


class _NotFinite(Exception):
    """An update holds NaN or infinities."""


def delta(pair: Pair, start: int, stop: int) -> np.ndarray:
    """Δ of the flat entries start … stop, float32.

    Where bfloat16 is compared Δ is rounded to it: the authors subtract there.
    """
    x, y = (_values(pair, side, start, stop) for side in (pair.before, pair.after))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = y - x
    return round_to(difference, "BF16") if pair.dtype == "BF16" else difference


def _values(pair: Pair, side: checkpoints.Tensor, start: int, stop: int) -> np.ndarray:
    return round_to(decode(side.raw(start, stop), side.dtype), pair.dtype)


def gram_of(matrix: np.ndarray, device: str = "cpu") -> LapackGram | TorchGram:
    """The smaller Gram matrix of a matrix in memory."""
    rows, columns = matrix.shape
    gram = empty_gram(min(rows, columns), device)
    gram.add(matrix if rows <= columns else matrix.T)
    return gram


def _gram(pair: Pair, start: int, rows: int, columns: int, device: str) -> LapackGram | TorchGram:
    """The Gram matrix of Δ, of the matrix that begins at flat index `start`.

    Read by rows: a tall matrix is never held; a wide one is, in float32 and nothing else of its
    size.
    """
    step = max(1, _PIECE // columns)
    pieces = [(row, min(row + step, rows)) for row in range(0, rows, step)]
    gram = empty_gram(min(rows, columns), device)
    whole = np.empty((rows, columns), np.float32) if rows <= columns else None
    for row, stop in pieces:
        part = delta(pair, start + row * columns, start + stop * columns)
        part = part.reshape(stop - row, columns)
        if not np.isfinite(part).all():
            raise _NotFinite
        if whole is None:
            gram.add(part.T)
        else:
            whole[row:stop] = part
    if whole is not None:
        gram.add(whole)
    return gram


def matrices(pairs: Sequence[Pair]) -> Iterator[_Matrix]:
    """Every matrix whose rank is taken.

    All but norms, embedding and head included (Section 4). A stack of matrices (fused experts) is
    taken apart; other shapes are no matrices.
    """
    for p in pairs:
        if p.part != "values" or not p.n or p.place.matrix == "norm":
            continue
        if len(p.shape) == 2:
            yield p, p.name, 0, p.shape[0], p.shape[1]
        elif len(p.shape) == 3:
            size = p.shape[1] * p.shape[2]
            for k in range(p.shape[0]):
                yield p, f"{p.name}[{k}]", k * size, p.shape[1], p.shape[2]


def ranks(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    cast: str | None = None,
    common_rows: bool = False,
    allow_partial: bool = False,
    spectrum: bool = True,
    angles: int = 0,
    device: str = "cpu",
    workers: int = 1,
) -> Spectra:
    """Ranks of every matrix of an update, but those that hold NaN or infinities.

    Args:
        before, after, names, cast, common_rows, allow_partial: see `updates.measure`.
        spectrum: see `ranks.ranks_of`.
        angles: if positive, also the principal angles of that many singular directions.
        device: `cpu`, `torch` (torch on the CPU), or a torch device.
        workers: matrices at a time, on a CPU. Each takes about 24 bytes an entry of the Gram matrix
            and, if the matrix is wide, 4 an entry of its own.

    Raises:
        UserError: too little to compare, NaN or infinities in every matrix, or no such device here.
    """
    check_device(device)
    with checkpoints.open(before) as first, checkpoints.open(after) as second:
        for side in (first, second):
            verify(side)
        matched = match(
            first,
            second,
            names=names,
            cast=cast,
            common_rows=common_rows,
            allow_partial=allow_partial,
        )
        found = Spectra(matched)
        wanted = list(matrices(matched.pairs))

        def work(matrix: _Matrix) -> Spectrum | None:
            p, name, start, rows, columns = matrix
            try:
                gram = _gram(p, start, rows, columns, device)
            except _NotFinite:
                return None
            turned = None
            if angles:
                stop = start + rows * columns
                first_side = _values(p, p.before, start, stop).reshape(rows, columns)
                second_side = _values(p, p.after, start, stop).reshape(rows, columns)
                turned = rotation(first_side, second_side, k=angles)
            result = ranks_of(gram, max(rows, columns), spectrum=spectrum)
            return Spectrum(p, name, rows, columns, result, turned)

        def size(matrix: _Matrix) -> int:
            p, _, _, rows, columns = matrix
            return rows * columns * (p.before.itemsize + p.after.itemsize)

        with (
            Progress("ranks", sum(map(size, wanted))) as progress,
            ThreadPoolExecutor(workers if device == "cpu" else 1) as pool,
        ):
            waiting = [pool.submit(work, matrix) for matrix in wanted]
            try:
                done = 0
                for matrix, result in zip(wanted, waiting, strict=True):
                    if spectrum_ := result.result():
                        found.append(spectrum_)
                    else:
                        found.not_finite.append(matrix[1])
                    done += size(matrix)
                    progress.update(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    if found.not_finite and not found:
        raise UserError(
            f"{after}: tensor {found.not_finite[0]!r}: its update holds NaN or infinities, as does "
            "every matrix's, so none has a rank; `measure` says how many"
        )
    return found


def summarise(before: str, after: str, found: Spectra) -> dict[str, Any]:
    """The JSON summary: rank / full rank on average and at least, and how many are borderline."""
    inner = [s for s in found if not s.pair.place.is_embedding_or_head]
    return {
        "before": before,
        "after": after,
        "rule": "sigma > sigma_max * max(rows, columns) * eps32, in float32 as torch's matrix_rank",
        "mean_rank": _mean([s.rank_fraction for s in found]),
        "mean_rank_without_embeddings": _mean([s.rank_fraction for s in inner]),
        "min_rank": min((s.rank_fraction for s in found), default=None),
        "matrices": len(found),
        "compared_share": found.compared_share,
        "names": found.names,
        "notes": found.notes,
        "excluded": [{"name": e.name, "reason": e.reason} for e in found.excluded],
        "borderline": sum(s.borderline for s in found),
        "borderline_names": [s.name for s in found if s.borderline],
        "unchanged": sum(s.ranks.rank == 0 for s in found),
        "not_finite": found.not_finite if isinstance(found, Spectra) else [],
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def table(found: Spectra) -> list[dict[str, Any]]:
    """One flat row per matrix."""
    rows = []
    for s in found:
        at = s.ranks.ranks_at or {}
        row: dict[str, Any] = {
            "name": s.name,
            "layer": s.pair.place.layer,
            "matrix": s.pair.place.matrix,
            "rows": s.rows,
            "columns": s.columns,
            "rank": s.ranks.rank,
            "full_rank": s.full_rank,
            "rank_fraction": s.rank_fraction,
            "rank_low": s.ranks.rank_low,
            "rank_high": s.ranks.rank_high,
            "borderline": s.borderline,
            "sigma_max": s.ranks.sigma_max,
            "stable_rank": s.ranks.stable_rank,
            "effective_rank": s.ranks.effective_rank,
            "energy_rank_99": s.ranks.energy_rank_99,
            "compared_share": found.compared_share,
            **{f"rank_at_{t:.0e}".replace("e-0", "e-"): at.get(t) for t in TOLERANCES},
        }
        if s.rotation is not None:
            row |= {
                "spectral_drift": s.rotation.drift,
                "left_angle_max": float(s.rotation.left[-1]),
                "right_angle_max": float(s.rotation.right[-1]),
                "left_angle_mean": float(s.rotation.left.mean()),
                "right_angle_mean": float(s.rotation.right.mean()),
                "rotation_exact": s.rotation.exact,
                "rotation_residual": s.rotation.residual,
            }
        rows.append(row)
    return rows
