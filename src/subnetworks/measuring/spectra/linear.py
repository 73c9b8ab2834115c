"""Dense linear algebra in float64 for one symmetric matrix: LAPACK on CPUs, torch on GPUs.

The two solvers have one interface, so that what is counted with them does not know where it runs.
"""

from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from scipy.linalg import blas, lapack

# Entries of Δ turned to float64 at a time.
_PIECE = 1 << 22
# Below this size Lanczos is not worth its start.
_SMALL = 256
# Above this one torch is worth its import.
_LARGE = 1024


class Gram(Protocol):
    """A Gram matrix G of a matrix Δ, the smaller of ΔΔᵀ and ΔᵀΔ."""

    size: int

    def largest(self) -> float:
        """The largest eigenvalue, to a relative 1e-9."""

    def trace(self) -> float:
        """Σ of the eigenvalues, ‖Δ‖²."""

    def above(self, threshold: float) -> int:
        """How many eigenvalues exceed `threshold`."""

    def exceeds(self, threshold: float) -> bool:
        """Whether all eigenvalues exceed `threshold`."""

    def eigenvalues(self) -> np.ndarray:
        """All eigenvalues, ascending."""


class LapackGram:
    """On the CPU, through SciPy; only the lower triangle is kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lower = np.zeros((size, size), order="F")

    def add(self, block: np.ndarray) -> None:
        """Add B Bᵀ for a block of columns of ΔΔᵀ's Δ: `size` × any number."""
        step = max(256, _PIECE // max(self.size, 1))
        for start in range(0, block.shape[1], step):
            part = np.asfortranarray(block[:, start : start + step], dtype=np.float64)
            self._lower = blas.dsyrk(1.0, part, beta=1.0, c=self._lower, overwrite_c=1, lower=1)

    def trace(self) -> float:
        """Σ of the eigenvalues."""
        return float(np.trace(self._lower))

    def largest(self) -> float:
        """The largest eigenvalue; by Lanczos iteration if the matrix is large."""
        if self.size <= _SMALL:
            return float(self.eigenvalues()[-1])
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

        operator = LinearOperator(
            self._lower.shape,
            matvec=lambda x: blas.dsymv(1.0, self._lower, x.ravel(), lower=1),
            dtype=np.float64,
        )
        start = np.random.default_rng(0).standard_normal(self.size)
        try:
            found = eigsh(
                operator, k=1, which="LA", tol=1e-9, ncv=24, return_eigenvectors=False, v0=start
            )
        except ArpackError:  # did not converge
            return float(self.eigenvalues()[-1])
        return float(found[0])

    def _shifted(self, threshold: float) -> np.ndarray:
        shifted = self._lower.copy(order="F")
        shifted[np.diag_indices_from(shifted)] -= threshold
        return shifted

    def exceeds(self, threshold: float) -> bool:
        """Whether all eigenvalues exceed `threshold`; by Cholesky factorisation."""
        _, info = lapack.dpotrf(self._shifted(threshold), lower=1, overwrite_a=1, clean=0)
        return bool(info == 0)

    def above(self, threshold: float) -> int:
        """By inertia: L D Lᵀ = G − threshold·I has as many positive eigenvalues as D."""
        shifted = self._shifted(threshold)
        work, _ = lapack.dsytrf_lwork(self.size, lower=1)
        factor, pivots, info = lapack.dsytrf(shifted, lower=1, lwork=int(work), overwrite_a=1)
        assert info >= 0
        return _positive(np.diag(factor), np.diag(factor, -1), pivots)

    def eigenvalues(self) -> np.ndarray:
        """All eigenvalues, ascending; of a large matrix by torch's LAPACK, twice as fast."""
        if self.size > _LARGE and find_spec("torch"):
            import torch

            # The lower triangle by columns is the upper one by rows.
            whole = torch.from_numpy(self._lower.T)
            return np.asarray(torch.linalg.eigvalsh(whole, UPLO="U").numpy())
        return scipy.linalg.eigh(
            self._lower, lower=True, eigvals_only=True, check_finite=False, driver="evd"
        )


def _positive(diagonal: np.ndarray, below: np.ndarray, pivots: np.ndarray) -> int:
    """Positive eigenvalues of a block diagonal D; a negative pivot marks a row of a 2 × 2 block."""
    single = pivots > 0
    positive = int((diagonal[single] > 0).sum())
    first = np.flatnonzero(~single)[::2]
    # A 2 × 2 block of this factorisation has one eigenvalue of either sign unless its determinant
    # is positive; then both have the sign of its trace.
    a, b, c = diagonal[first], below[first], diagonal[first + 1]
    determinant = a * c - b * b
    both = (determinant > 0) & (a + c > 0)
    one = (determinant < 0) | ((determinant == 0) & (a + c > 0))
    return positive + 2 * int(both.sum()) + int(one.sum())


class TorchGram:
    """On a GPU (or anywhere torch runs): all eigenvalues at once, which is quick there."""

    def __init__(self, size: int, device: str) -> None:
        import torch

        self.size = size
        self._torch = torch
        self._whole = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._values: Any = None

    def add(self, block: np.ndarray) -> None:
        """Add B Bᵀ, as `LapackGram.add`."""
        step = max(256, 4 * _PIECE // max(self.size, 1))
        for start in range(0, block.shape[1], step):
            part = self._torch.from_numpy(np.ascontiguousarray(block[:, start : start + step]))
            part = part.to(self._whole.device).double()
            self._whole.addmm_(part, part.T)
        self._values = None

    def trace(self) -> float:
        """Σ of the eigenvalues."""
        return float(self._torch.trace(self._whole))

    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues()[-1])

    def exceeds(self, threshold: float) -> bool:
        """Whether all eigenvalues exceed `threshold`."""
        return bool(self.eigenvalues()[0] > threshold)

    def above(self, threshold: float) -> int:
        """How many eigenvalues exceed `threshold`."""
        return int((self.eigenvalues() > threshold).sum())

    def eigenvalues(self) -> np.ndarray:
        """All eigenvalues, ascending."""
        if self._values is None:
            self._values = self._torch.linalg.eigvalsh(self._whole).cpu().numpy()
        return np.asarray(self._values)


def empty_gram(size: int, device: str = "cpu") -> LapackGram | TorchGram:
    """A Gram matrix to add to; `device` is `cpu` (LAPACK), `torch` (the same by torch), or a torch
    device such as `cuda`."""
    if device == "cpu":
        return LapackGram(size)
    return TorchGram(size, "cpu" if device == "torch" else device)
