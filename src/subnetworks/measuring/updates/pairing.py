"""Which tensors of two checkpoints are compared, as what, and which are not, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subnetworks.checkpoints import Checkpoint, Tensor, quantised
from subnetworks.checkpoints.numbers import FLOATS, narrower
from subnetworks.checkpoints.tensors import Place, is_buffer, place
from subnetworks.checkpoints.wrappers import without_wrappers
from subnetworks.core.errors import UserError
from subnetworks.measuring.updates import coverage, name_maps, ties
from subnetworks.measuring.updates.coverage import Excluded, Kind
from subnetworks.measuring.updates.names import align


@dataclass(frozen=True)
class Pair:
    """Two tensors of one shape to compare.

    Attributes:
        name: the parameter's name (the one before, if they differ).
        dtype: the format in which they are compared.
        part: `values`, or for quantised weights `payload` (their codes) or `scales`.
    """

    name: str
    before: Tensor
    after: Tensor
    dtype: str
    place: Place
    part: str = "values"

    @property
    def shape(self) -> tuple[int, ...]:
        """The common shape."""
        return self.before.shape

    @property
    def n(self) -> int:
        """Number of entries."""
        return self.before.n


@dataclass(frozen=True)
class Match:
    """What of two checkpoints is compared.

    Attributes:
        pairs: the tensors to compare; of quantised weights payload and scales besides.
        excluded: what is not compared, each with its reason.
        names: how names were brought together: `before` and `after` with what was `stripped` from
            them (wrapper → tensors), and `prefixes` that differ (before, after, tensors).
        notes: what a reader should know besides, in words.
    """

    pairs: list[Pair]
    excluded: list[Excluded]
    names: dict[str, Any]
    notes: list[str]

    @property
    def values(self) -> list[Pair]:
        """The pairs of parameters, without payload and scales."""
        return [p for p in self.pairs if p.part == "values"]

    @property
    def compared_share(self) -> float:
        """See `subnetworks.measuring.updates.coverage`."""
        return coverage.share(sum(p.n for p in self.values), self.excluded)


def match(
    before: Checkpoint,
    after: Checkpoint,
    *,
    common_rows: bool = False,
    names: Mapping[str, str] | None = None,
    cast: str | None = None,
    allow_partial: bool = False,
) -> Match:
    """Find which parameters of two checkpoints are one another's, by name.

    What models are wrapped in is stripped from names, `names` is applied, and the text backbone of
    a larger model is aligned with a text model (`subnetworks.measuring.updates.names`). Left out,
    each with its reason: buffers and integers; output heads that are the embedding
    (`subnetworks.measuring.updates.ties`); what is on one side only; and, as in the authors'
    script, what differs in shape.

    Args:
        common_rows: compare the leading rows where only the first axis differs (a resized
            vocabulary).
        names: parameters under other names, before → after; see `name_maps.apply`.
        cast: compare everything in this dtype (such as BF16), rounding or widening both sides,
            instead of in the narrower of both.
        allow_partial: compare what there is, however little of both checkpoints it is.

    Raises:
        UserError: nothing in common; a name map that fits nothing; names that may mean
            several; or, unless `allow_partial`, too little in common (see `coverage.check`).
    """
    excluded: list[Excluded] = []
    before, stripped_before = without_wrappers(before)
    after, stripped_after = without_wrappers(after)
    readings = quantised.read(before), quantised.read(after)
    left = _parameters(before, readings[0], "before", excluded)
    right = _parameters(after, readings[1], "after", excluded)
    left, right = name_maps.apply(left, right, names or {})
    right, prefixes = align(left, right, f"{before.source} and {after.source}")
    tied, notes = ties.settle(before, after, left, right)
    excluded += [Excluded(name, reason) for name, reason in tied.items()]
    pairs: list[Pair] = []
    for name in left:
        if name not in right:
            excluded.append(_left_out(name, "only in before", Kind.BEFORE, left[name]))
            continue
        first, second = left[name], right[name]
        if first.shape != second.shape:
            shapes = f"{_written(first.shape)} before, {_written(second.shape)} after"
            larger = max(first, second, key=lambda tensor: tensor.n)
            alike = bool(first.shape and second.shape) and first.shape[1:] == second.shape[1:]
            if not (common_rows and alike):
                kind = Kind.ROWS if alike else Kind.SHAPES
                kind = Kind.SHAPES if _empty(first) or _empty(second) else kind
                excluded.append(_left_out(name, f"shapes differ: {shapes}", kind, larger))
                continue
            rows = min(first.shape[0], second.shape[0])
            reason = f"rows on one side only: {shapes}"
            rest = larger.rows(rows, larger.shape[0])
            excluded.append(_left_out(f"{name}[{rows}:]", reason, Kind.OTHER_ROWS, rest))
            first, second = first.rows(0, rows), second.rows(0, rows)
        dtype = cast or narrower(first.dtype, second.dtype)
        pairs.append(Pair(name, first, second, dtype, place(name)))
    for name in right:
        if name not in left:
            excluded.append(_left_out(name, "only in after", Kind.AFTER, right[name]))
    found = Match(
        pairs,
        _merged(excluded),
        {
            "before": {"stripped": stripped_before},
            "after": {"stripped": stripped_after},
            "prefixes": prefixes,
        },
        [*before.notes, *after.notes, *notes],
    )
    empties = {
        checkpoint.source: [tensor.name for tensor in side.values() if _empty(tensor)]
        for checkpoint, side in ((before, left), (after, right))
    }
    coverage.check(
        (before.source, after.source),
        sum(p.n for p in pairs),
        found.excluded,
        empties,
        allow_partial,
    )
    if not any(p.n for p in pairs):
        one = sorted(left or before.tensors)[:1]
        other = sorted(right or after.tensors)[:1]
        raise UserError(
            f"{before.source} and {after.source}: no parameter of the same name and shape in "
            f"common (such as {', '.join(one) or 'none'} and {', '.join(other) or 'none'}); "
            "compare two versions of one model, or map the names (--names)"
        )
    pairs += _quantised_parts(*readings, pairs)
    return found


def _left_out(name: str, reason: str, kind: Kind, tensor: Tensor) -> Excluded:
    return Excluded(name, reason, kind, tensor.shape)


def _empty(tensor: Tensor) -> bool:
    """Whether it is what is left of a parameter whose values lie with another process."""
    return tensor.shape == (0,)


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _merged(excluded: list[Excluded]) -> list[Excluded]:
    """What both sides leave out for the same reason is listed once."""
    return list(dict.fromkeys(excluded))


def parameters(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All parameters of one checkpoint by name, as `match` takes them; heads included."""
    bare = without_wrappers(checkpoint)[0]
    return _parameters(bare, quantised.read(bare), "", [])


def _parameters(
    checkpoint: Checkpoint, reading: quantised.Reading, side: str, excluded: list[Excluded]
) -> dict[str, Tensor]:
    """The parameters of one side by name; quantised weights come dequantised."""
    found: dict[str, Tensor] = {}
    for name, reason in checkpoint.excluded.items():
        shape = checkpoint.unread.get(name, ())
        unread = name in checkpoint.unread and not is_buffer(name, shape)
        kind = Kind.UNREAD if unread else Kind.NONE
        excluded.append(Excluded(name, f"{reason} ({side})", kind, shape))
    excluded += [Excluded(name, reason) for name, reason in reading.excluded.items()]
    for name, tensor in reading.tensors.items():
        if is_buffer(name, tensor.shape):
            excluded.append(Excluded(name, "a buffer, not a parameter"))
        elif tensor.dtype not in FLOATS:
            reason = f"integers ({tensor.dtype}), not weights"
            excluded.append(_left_out(name, reason, Kind.INTEGERS, tensor))
        else:
            found[name] = tensor
    return found


def _quantised_parts(
    before: quantised.Reading, after: quantised.Reading, pairs: list[Pair]
) -> list[Pair]:
    """Payload and scales of weights that both sides store quantised alike."""
    parts: list[Pair] = []
    weights = [{id(weight.values): weight for weight in side.weights} for side in (before, after)]
    for p in pairs:
        first, second = weights[0].get(id(p.before)), weights[1].get(id(p.after))
        if first is None or second is None or first.payload.shape != second.payload.shape:
            continue
        for part, x, y in (
            ("payload", first.payload, second.payload),
            ("scales", first.scales, second.scales),
        ):
            if x.shape == y.shape:
                parts.append(Pair(x.name, x, y, narrower(x.dtype, y.dtype), p.place, part))
    return parts
