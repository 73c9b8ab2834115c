"""The kernels' counts by plain torch: on a GPU, and on a CPU to check the kernels against."""

from typing import TYPE_CHECKING

import numpy as np

from subnetworks.core.kernels import Counts, Rule, layout

if TYPE_CHECKING:
    from torch import Tensor

Arrays = tuple[np.ndarray, np.ndarray]


class TorchCounter:
    """Counts pieces on one device."""

    def __init__(self, device: str, rule: Rule) -> None:
        """`device`: as torch names it, such as `cuda:1`.

        Raises:
            RuntimeError: torch has no such device here.
        """
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._rule = rule
        self._bounds = torch.from_numpy(rule.bounds).to(self._device)
        self._reaches = torch.tensor([0, *(1 << k for k in range(layout.STEP_BINS - 2))])
        self._reaches = self._reaches.to(self._device)
        self._powers = torch.tensor([1 << k for k in range(8)], dtype=torch.uint8)
        self._powers = self._powers.to(self._device)

    def count_bf16(
        self, a: np.ndarray, b: np.ndarray, mask: np.ndarray | None, counts: Counts
    ) -> None:
        """As `kernels.count_bf16`."""
        bits = [self._torch.from_numpy(side.view(np.int16)).to(self._device) for side in (a, b)]
        values = [side.view(self._torch.bfloat16).float() for side in bits]
        wide = [side.long() & 0xFFFF for side in bits]
        self._count(wide, values, values, 0x7FFF, mask, counts)

    def count_any(
        self,
        bits: Arrays,
        values: Arrays,
        rounded: Arrays,
        magnitude: int,
        mask: np.ndarray | None,
        counts: Counts,
    ) -> None:
        """As `kernels.count_any`."""
        wide = [self._send(side.astype(np.int64)) for side in bits]
        exact, coarse = ([self._send(side) for side in sides] for sides in (values, rounded))
        self._count(wide, exact, coarse, magnitude, mask, counts)

    def _send(self, array: np.ndarray) -> "Tensor":
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _count(
        self,
        bits: "list[Tensor]",
        values: "list[Tensor]",
        rounded: "list[Tensor]",
        magnitude: int,
        mask: np.ndarray | None,
        counts: Counts,
    ) -> None:
        torch, rule = self._torch, self._rule
        (p, q), (f, g) = bits, values
        same = p == q
        difference = (g - f).abs()
        difference_bf16 = (rounded[1] - rounded[0]).abs()
        larger = torch.maximum(f.abs(), g.abs())
        finite = f.isfinite() & g.isfinite()
        equal = finite & (difference == 0)
        close, absolute = rule.close, rule.close + rule.absolute
        within = [
            *(difference_bf16 <= bound for bound in self._bounds[:close]),
            *(difference <= bound for bound in self._bounds[close:absolute]),
            *(difference <= bound * larger for bound in self._bounds[absolute:]),
        ]
        match rule.select:
            case layout.SELECT_BITS:
                kept = same
            case layout.SELECT_CLOSE:
                kept = finite & (difference_bf16 <= rule.bound)
            case layout.SELECT_ABSOLUTE:
                kept = finite & (difference <= rule.bound)
            case _:
                kept = finite & (difference <= self._torch.tensor(rule.bound) * larger)
        sums = {
            layout.BIT_EQUAL: same,
            layout.EQUAL: equal,
            layout.SELECTED: ~kept,
            layout.NAN_BEFORE: f.isnan(),
            layout.NAN_AFTER: g.isnan(),
            layout.INF_BEFORE: f.isinf(),
            layout.INF_AFTER: g.isinf(),
            layout.NONFINITE: ~finite,
            layout.NONFINITE_BIT_EQUAL: same & ~finite,
            **{layout.TOLERANCES + k: finite & held for k, held in enumerate(within)},
        }
        for place, held in sums.items():
            counts.counts[place] += int(held.sum())
        if magnitude:
            signed = [torch.where(s > magnitude, -(s & magnitude), s & magnitude) for s in bits]
            steps = (signed[1] - signed[0]).abs()[finite]
            bins = torch.bucketize(steps, self._reaches)
            counts.steps += self._histogram(bins, layout.STEP_BINS)
        exponents = (f.view(torch.int32) >> 23) & 0xFF
        counts.exponents[0] += self._histogram(exponents, layout.EXPONENTS)
        counts.exponents[1] += self._histogram(exponents[~equal], layout.EXPONENTS)
        if mask is not None:
            padded = torch.zeros(8 * mask.size, dtype=torch.uint8, device=self._device)
            padded[: kept.numel()] = ~kept
            packed = (padded.view(-1, 8) * self._powers).sum(1, dtype=torch.uint8)
            mask[:] = packed.cpu().numpy()

    def _histogram(self, places: "Tensor", bins: int) -> np.ndarray:
        return self._torch.bincount(places, minlength=bins).cpu().numpy()
