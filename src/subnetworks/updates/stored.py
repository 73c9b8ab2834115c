"""How much of a checkpoint a delta stores as what differs from its base, and how much whole."""

from subnetworks.checkpoints import Checkpoint
from subnetworks.errors import UserError
from subnetworks.updates.coverage import Excluded, Kind, is_partial, share


def coverage_of(before: Checkpoint, after: Checkpoint, allow_partial: bool) -> float:
    """The share of all stored entries, of both checkpoints together, that are compared bit for bit.

    Those are the entries of tensors that both have under one name, in one dtype and shape. A delta
    is lossless whatever the share, but says little of an update where it is small.

    Raises:
        UserError: less than 99 %, or a matrix within a layer is not among them; unless
            `allow_partial`.
    """
    compared, excluded = 0, []
    for name in dict.fromkeys([*before.tensors, *after.tensors]):
        old, new = before.tensors.get(name), after.tensors.get(name)
        if old is None or new is None:
            tensor, kind = (new, Kind.AFTER) if old is None else (old, Kind.BEFORE)
            assert tensor is not None
            source = after.source if old is None else before.source
            excluded.append(Excluded(name, f"only in {source}", kind, tensor.shape))
        elif (old.dtype, old.shape) != (new.dtype, new.shape):
            larger = max(old, new, key=lambda tensor: tensor.n)
            reason = f"{old.dtype} {list(old.shape)} before, {new.dtype} {list(new.shape)} after"
            excluded.append(Excluded(name, reason, Kind.SHAPES, larger.shape))
        else:
            compared += new.n
    found = share(compared, excluded)
    if is_partial(compared, excluded) and not allow_partial:
        largest = max(excluded, key=lambda entry: entry.n)
        more = f" and {len(excluded) - 1} more" if len(excluded) > 1 else ""
        raise UserError(
            f"{before.source} and {after.source}: only {found:.2%} of the entries can be stored as "
            f"what differs; not {largest.name!r}{more} ({largest.reason}); name the base that the "
            "checkpoint was trained from, or store those whole (--allow-partial)"
        )
    return found
