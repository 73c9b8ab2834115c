"""How well scores that are known before training rank the entries that training changes.

Average precision is the area under the precision-recall curve, Σ (R_k − R_(k−1)) P_k over all
distinct scores from the highest on, R_k and P_k the recall and precision of all entries that reach
the k-th: exact, equal scores counted together. Scores that know nothing have the density of the
mask. At a density, equal scores at its bound count by their share, as if drawn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_origins
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.scores import Scores, keys

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def rank(mask: Mask, scores: Scores, densities: Sequence[float] = DENSITIES) -> dict[str, Any]:
    """Compare scores with the mask of what was changed in the end.

    Args:
        mask: the mask.
        scores: of every entry, drawn on the checkpoint that the mask's update starts from.
        densities: shares of all entries that the highest scores are chosen to; the mask's own is
            added.

    Returns a dictionary: `n`, `changed`, `density`; `average_precision` over all entries, and over
    `per_tensor`, the mean of the tensors' weighted by their changed entries; `sweep`, one entry a
    density with `precision` and `recall` of the highest scores in all. Ratios of nothing are None.
    Memory: 24 bytes an entry.

    Raises:
        UserError: they are not of the same checkpoint.
    """
    mask_origins.check([mask], weights=(scores.origin, scores.before))
    if dict(mask.shapes) != dict(scores.shapes):
        raise UserError(f"{mask.path}: not of the same tensors as {scores.origin}")
    of_keys, of_bits = [], []
    weighted = 0.0
    for name in mask.names:
        bits = mask.array(name).reshape(-1)
        found = keys(scores.of(name))
        weighted += int(bits.sum()) * _average_precision(*_curve(found, bits))
        of_keys.append(found)
        of_bits.append(bits)
    chosen, hit = _curve(np.concatenate(of_keys), np.concatenate(of_bits))
    n, changed = int(chosen[-1]), int(hit[-1])
    mask.confirm(changed)
    own = changed / n if n else 0.0
    sweep = []
    for density in sorted({*densities, own}):
        size = density * n
        both = float(np.interp(size, chosen, hit))
        sweep.append(
            {
                "density": density,
                "precision": both / size if size else None,
                "recall": both / changed if changed else None,
            }
        )
    return {
        "n": n,
        "changed": changed,
        "density": own,
        "average_precision": _average_precision(chosen, hit) if changed else None,
        "average_precision_per_tensor": weighted / changed if changed else None,
        "sweep": sweep,
    }


Counts = NDArray[np.int64]


def _curve(found: NDArray[np.uint32], bits: NDArray[np.bool_]) -> tuple[Counts, Counts]:
    """Entries chosen, and changed ones among them, down to each distinct score; from 0 on."""
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), max(found.size - 1, 0))
    hit = np.cumsum(bits[order], dtype=np.int64)
    if not found.size:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    return np.append(0, last + 1), np.append(0, hit[last])


def _average_precision(chosen: Counts, hit: Counts) -> float:
    if not hit[-1]:
        return 0.0
    return float(np.sum(np.diff(hit) / hit[-1] * hit[1:] / chosen[1:]))
