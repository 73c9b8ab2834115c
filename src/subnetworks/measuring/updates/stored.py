"""How much of a checkpoint a delta stores as what differs from its base, and how much whole."""

from subnetworks.checkpoints import Checkpoint
from subnetworks.checkpoints.tensors import place
from subnetworks.core.errors import UserError
from subnetworks.measuring.updates.coverage import Excluded, Kind, is_partial, share


def coverage_of(before: Checkpoint, after: Checkpoint, allow_partial: bool) -> float:
    """The share of all stored entries, of both checkpoints together, that are compared bit for bit.

    Those are the entries of tensors that both have under one name, in one dtype and shape. A delta
    is lossless whatever the share, but says little of an update where it is small.

    An embedding and a head with more or fewer rows are stored whole, and not missed: so is what a
    resized vocabulary leaves.

    Raises:
        UserError: less than 99 % of the rest, or a matrix within a layer is not among them; unless
            `allow_partial`.
    """
    for name in after.unread:
        raise UserError(
            f"{after.source}: tensor {name!r}: {after.excluded[name]}, so no delta can hold it; "
            "keep the checkpoint as it is"
        )
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
            alike = old.dtype == new.dtype and old.shape[1:] == new.shape[1:] and old.shape != ()
            kind = Kind.ROWS if alike and place(name).layer is None else Kind.SHAPES
            reason = f"{old.dtype} {list(old.shape)} before, {new.dtype} {list(new.shape)} after"
            excluded.append(Excluded(name, reason, kind, larger.shape))
        else:
            compared += new.n
    found = share(compared, excluded)
    missed = [entry for entry in excluded if entry.kind is not Kind.ROWS]
    if is_partial(compared, missed) and not allow_partial:
        largest = max(missed, key=lambda entry: entry.n)
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        raise UserError(
            f"{before.source} and {after.source}: only {found:.2%} of the entries can be stored as "
            f"what differs; not {largest.name!r}{more} ({largest.reason}); name the base that the "
            "checkpoint was trained from, or store those whole (--allow-partial)"
        )
    return found
