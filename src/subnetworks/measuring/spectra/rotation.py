"""How far an update turns a matrix: principal angles and spectral drift, before against after.

As in "The Path Not Taken" (arXiv 2511.08567): angles between the top-k singular subspaces,
and ‖σ(W₊) − σ(W₀)‖₂ / ‖σ(W₀)‖₂.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

# Up to this smaller side everything is computed exactly.
EXACT = 2048
_OVERSAMPLE, _ROUNDS = 16, 6


@dataclass(frozen=True)
class Rotation:
    """Before against after, for the k largest singular values.

    Attributes:
        left, right: principal angles in degrees between the subspaces, ascending (k values).
        drift: relative change of all singular values, or of the largest k if not `exact`.
        exact: whether all singular values were computed.
        residual: the largest ‖W v − σ u‖ / σ_1 of both sides; bounds the error of each σ by itself
            times σ_1 (0 if exact).
    """

    left: np.ndarray
    right: np.ndarray
    drift: float
    exact: bool
    residual: float


def rotation(
    before: np.ndarray, after: np.ndarray, k: int = 16, exact: bool | None = None
) -> Rotation:
    """Principal angles and drift of two matrices of one shape (any float dtype).

    Args:
        k: how many singular directions.
        exact: by an SVD, or by randomised subspace iteration, whose residual is returned; by
            default exact up to a smaller side of 2048.
    """
    k = min(k, *before.shape)
    if exact is None:
        exact = min(before.shape) <= EXACT
    (u0, s0, v0, r0), (u1, s1, v1, r1) = (leading(w, k, exact) for w in (before, after))
    scale = float(np.linalg.norm(s0))
    drift = float(np.linalg.norm(s1 - s0)) / scale if scale else 0.0
    return Rotation(_angles(u0, u1), _angles(v0, v1), drift, exact, max(r0, r1))


def leading(
    matrix: np.ndarray, k: int, exact: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The k largest singular triplets of a matrix, and their residual (see `Rotation`).

    Returns left vectors (rows, k), singular values (all of them if `exact`, else k), right vectors
    (columns, k), float64. Arguments as for `rotation`.
    """
    if exact is None:
        exact = min(matrix.shape) <= EXACT
    return _exact(matrix, k) if exact else _randomised(matrix, k)


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees; by sines where angles are small, since cosines lose them."""
    return np.degrees(np.sort(scipy.linalg.subspace_angles(first, second)))


def _exact(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return u[:, :k], s, vt[:k].T, 0.0


def _randomised(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    wide = matrix.astype(np.float64)
    sketch = np.random.default_rng(0).standard_normal((wide.shape[1], k + _OVERSAMPLE))
    q, _ = np.linalg.qr(wide @ sketch)
    for _ in range(_ROUNDS):
        p, _ = np.linalg.qr(wide.T @ q)
        q, _ = np.linalg.qr(wide @ p)
    inner, s, vt = np.linalg.svd(q.T @ wide, full_matrices=False)
    u, s, v = (q @ inner)[:, :k], s[:k], vt[:k].T
    residual = np.linalg.norm(wide @ v - u * s, axis=0) + np.linalg.norm(wide.T @ u - v * s, axis=0)
    return u, s, v, float(residual.max() / s[0]) if s[0] else 0.0
