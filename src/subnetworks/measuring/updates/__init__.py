"""Updates: what changed between two checkpoints, counted under every rule in one pass."""

import os
import time
from collections.abc import Mapping

from subnetworks import checkpoints
from subnetworks.measuring.updates.measuring import Measurement, count
from subnetworks.measuring.updates.pairing import match
from subnetworks.measuring.updates.rules import Rules, Selection
from subnetworks.measuring.updates.summary import summarise, table, write_table

__all__ = ["Measurement", "Rules", "Selection", "measure", "summarise", "table", "write_table"]


def measure(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    rules: Rules | None = None,
    mask: str | os.PathLike[str] | None = None,
    selection: Selection | None = None,
    common_rows: bool = False,
    names: Mapping[str, str] | None = None,
    cast: str | None = None,
    allow_partial: bool = False,
    threads: int | None = None,
    device: str = "cpu",
) -> Measurement:
    """Count what an update changed.

    Args:
        before, after: a folder, a `.safetensors` file, or `hub:owner/name@revision`.
        rules: which tolerances to count.
        mask: where to write the subnetwork's bit map (see `subnetworks.measuring.masks`); none by
        default.
        selection: the rule that the mask and `changed` follow; Δ ≠ 0 by default.
        common_rows, names, cast, allow_partial: see `pairing.match`.
        threads: workers; all cores by default.
        device: where to count, the counts being the same: `cpu` (compiled kernels), `torch` (torch
            on the CPU, slower, to check the kernels by), or torch's name of a GPU.

    Raises:
        UserError: a checkpoint that cannot be read or is not what its manifest says, or too little
            of it to compare.
    """
    started = time.perf_counter()
    rules = rules or Rules()
    selection = selection or Selection()
    with checkpoints.open(before) as first, checkpoints.open(after) as second:
        for side in (first, second):
            if side.content is None:  # otherwise it is checked while it is counted
                side.verify()
        found = match(
            first,
            second,
            common_rows=common_rows,
            names=names,
            cast=cast,
            allow_partial=allow_partial,
        )
        result = count(
            first,
            second,
            found.pairs,
            found.excluded,
            rules,
            selection,
            mask,
            threads,
            device,
        )
        result.names, result.notes = found.names, found.notes
    result.seconds = time.perf_counter() - started
    return result
