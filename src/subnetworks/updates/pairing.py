"""Which tensors of two checkpoints are compared, as what, and which are not, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from subnetworks.checkpoints import Checkpoint, Tensor
from subnetworks.checkpoints.quantised import fp8
from subnetworks.errors import UserError
from subnetworks.numbers import FLOATS, narrower
from subnetworks.tensors import Place, is_buffer, place


@dataclass(frozen=True)
class Pair:
    """Two tensors of one shape to compare.

    Attributes:
        name: the parameter's name (the one before, if they differ).
        dtype: the format in which they are compared.
        part: `values`, or for FP8 weights `payload` (the stored bytes) or `scales`.
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
class Excluded:
    """A tensor that is not compared, and why."""

    name: str
    reason: str


def pair(
    before: Checkpoint,
    after: Checkpoint,
    *,
    common_rows: bool = False,
    names: Mapping[str, str] | None = None,
    cast: str | None = None,
) -> tuple[list[Pair], list[Excluded]]:
    """Pair the parameters of two checkpoints by name.

    Left out, each with its reason: buffers and integers; output heads tied to the embedding; what
    is on one side only; and, as in the authors' script, what differs in shape.

    Args:
        common_rows: compare the leading rows where only the first axis differs (a resized
            vocabulary).
        names: parameters under other names, before → after; `*` stands for a layer's number, and
            names joined by ` + ` for matrices that the other side stores fused, stacked by rows.
        cast: compare everything in this dtype (such as BF16), rounding or widening both sides,
            instead of in the narrower of both.

    Raises:
        UserError: nothing in common, or a name map that fits nothing.
    """
    excluded: list[Excluded] = []
    left = _parameters(before, "before", excluded)
    right = _parameters(after, "after", excluded)
    left, right = _apply_names(left, right, names or {})
    pairs: list[Pair] = []
    for name in left:
        if name not in right:
            excluded.append(Excluded(name, "only in before"))
            continue
        first, second = left[name], right[name]
        if first.shape != second.shape:
            shapes = f"{_written(first.shape)} before, {_written(second.shape)} after"
            if not (common_rows and first.shape[1:] == second.shape[1:] and first.shape):
                excluded.append(Excluded(name, f"shapes differ: {shapes}"))
                continue
            rows = min(first.shape[0], second.shape[0])
            excluded.append(Excluded(f"{name}[{rows}:]", f"rows on one side only: {shapes}"))
            first, second = first.rows(0, rows), second.rows(0, rows)
        dtype = cast or narrower(first.dtype, second.dtype)
        pairs.append(Pair(name, first, second, dtype, place(name)))
    excluded += [Excluded(name, "only in after") for name in right if name not in left]
    if not any(p.n for p in pairs):
        one = sorted(left or before.tensors)[:1]
        other = sorted(right or after.tensors)[:1]
        raise UserError(
            f"{before.source} and {after.source}: no parameter of the same name and shape in "
            f"common (such as {', '.join(one) or 'none'} and {', '.join(other) or 'none'}); "
            "compare two versions of one model, or map the names (--names)"
        )
    return pairs + _fp8_parts(before, after, pairs), _merged(excluded)


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _merged(excluded: list[Excluded]) -> list[Excluded]:
    """What both sides leave out for the same reason is listed once."""
    return list(dict.fromkeys(excluded))


def _parameters(checkpoint: Checkpoint, side: str, excluded: list[Excluded]) -> dict[str, Tensor]:
    """The parameters of one side by name; FP8 weights with scales come dequantised."""
    found: dict[str, Tensor] = {}
    for name, reason in checkpoint.excluded.items():
        excluded.append(Excluded(name, f"{reason} ({side})"))
    for name, tensor in checkpoint.tensors.items():
        if is_buffer(name, tensor.shape):
            excluded.append(Excluded(name, "a buffer, not a parameter"))
        elif tensor.dtype not in FLOATS:
            excluded.append(Excluded(name, f"integers ({tensor.dtype}), not weights"))
        elif name in checkpoint.tied:
            excluded.append(Excluded(name, f"tied to {checkpoint.tied[name]}, counted there"))
        elif scaled := fp8.scaled_by(checkpoint, name):
            # Compared with the payload it scales.
            if scaled not in checkpoint.tensors:
                found[name] = tensor
        elif scale := fp8.scale_of(checkpoint, name):
            found[name] = fp8.dequantised(tensor, scale, checkpoint.config)
        else:
            found[name] = tensor
    return found


def _fp8_parts(before: Checkpoint, after: Checkpoint, pairs: list[Pair]) -> list[Pair]:
    """Payload and scales of weights that both sides store in FP8 with scales."""
    parts: list[Pair] = []
    for p in pairs:
        if p.name not in before.tensors or p.name not in after.tensors:
            continue
        scales = fp8.scale_of(before, p.name), fp8.scale_of(after, p.name)
        if scales[0] is None or scales[1] is None:
            continue
        first, second = before[p.name], after[p.name]
        dtype = narrower(first.dtype, second.dtype)
        parts.append(Pair(p.name, first, second, dtype, p.place, "payload"))
        if scales[0].shape == scales[1].shape:
            dtype = narrower(scales[0].dtype, scales[1].dtype)
            parts.append(Pair(scales[0].name, scales[0], scales[1], dtype, p.place, "scales"))
    return parts


def _apply_names(
    left: dict[str, Tensor], right: dict[str, Tensor], names: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rename what is after to what it was before; cut fused tensors by the other side's rows."""
    for pattern_before, pattern_after in names.items():
        used = False
        for layer in _layers(pattern_before, left):
            olds = [part.strip().replace("*", layer) for part in pattern_before.split(" + ")]
            news = [part.strip().replace("*", layer) for part in pattern_after.split(" + ")]
            if not all(o in left for o in olds) or not all(n in right for n in news):
                continue
            used = True
            if len(olds) == len(news):
                moved = [right.pop(new) for new in news]
                right |= dict(zip(olds, moved, strict=True))
            elif len(news) == 1:
                right |= _cut(right.pop(news[0]), {old: left[old] for old in olds})
            elif len(olds) == 1:
                left |= _cut(left.pop(olds[0]), {new: right[new] for new in news})
            else:
                raise UserError(f"names: {pattern_before!r}: {len(olds)} names to {len(news)}")
        if not used:
            raise UserError(
                f"names: {pattern_before!r} → {pattern_after!r} fits no tensors of the checkpoints"
            )
    return left, right


def _layers(pattern: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """What `*` may stand for."""
    if "*" not in pattern:
        return [""]
    first = pattern.split(" + ")[0].strip()
    head, tail = first.split("*", 1)[0], first.rsplit("*", 1)[1]
    found = []
    for name in tensors:
        inner = name[len(head) : len(name) - len(tail)]
        if name.startswith(head) and name.endswith(tail) and inner.isdecimal():
            found.append(inner)
    return found


def _cut(fused: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a fused tensor along its first axis into the shapes of `parts`."""
    rows = sum(part.shape[0] for part in parts.values())
    if rows != fused.shape[0]:
        raise UserError(
            f"names: {fused.name!r} has {fused.shape[0]} rows, {' + '.join(parts)} have {rows}"
        )
    cut, start = {}, 0
    for name, part in parts.items():
        cut[name] = fused.rows(start, start + part.shape[0])
        start += part.shape[0]
    return cut
