"""Whether a mask fits the checkpoint it is to be trained from."""

import math
from collections.abc import Mapping
from pathlib import Path

from subnetworks.core.errors import UserError


def check(mask: Path, init: Path, shapes: Mapping[str, tuple[int, ...]], tied: bool) -> None:
    """Check a mask against the init: names and shapes of its tensors (name -> shape), and its base.

    A mask that names no base (a random one of no update, say) is judged by names and shapes.

    Raises:
        UserError: the first tensor that the mask lacks, that it has too many, or that has another
            shape; a mask made for another base; or one without a single entry to train.
    """
    from subnetworks.measuring.masks import Mask

    opened = Mask.open(mask)
    known = set(opened.names)
    for name, shape in shapes.items():
        if name not in known:
            if tied and name.startswith("lm_head"):
                continue
            raise UserError(
                f"{mask}: has no tensor {name!r}, which {init} has: use a mask made for this init"
            )
        if tuple(opened.shape(name)) != tuple(shape):
            raise UserError(
                f"{mask}: {name} has shape {list(opened.shape(name))}, in {init} it is "
                f"{list(shape)}: use a mask made for this init"
            )
    for name in opened.names:
        if name not in shapes:
            raise UserError(
                f"{mask}: has a tensor {name!r}, which {init} lacks: use a mask made for this init"
            )
    base = opened.metadata.get("before")
    if base and base != (found := digest(init)):
        raise UserError(
            f"{mask}: made for a base with digest {base}, but {init} has {found}: use a mask made "
            "for this init"
        )
    changed = sum(opened.count(name) for name in opened.names)
    opened.confirm(changed)
    if not changed:
        entries = sum(math.prod(shape) for shape in shapes.values())
        raise UserError(
            f"{mask}: freezes all {entries} entries, so there is nothing to train; use another mask"
        )


def digest(init: Path) -> str:
    """The digest of a checkpoint's content, which masks and deltas name their base by."""
    from subnetworks import checkpoints
    from subnetworks.checkpoints import identity

    with checkpoints.open(init) as opened:
        return identity.digest(opened)
