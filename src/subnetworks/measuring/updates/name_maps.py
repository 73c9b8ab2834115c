"""Maps of names, before → after: one by one, by prefix, fused by rows, stacked by experts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from subnetworks.checkpoints import Tensor
from subnetworks.checkpoints.wrappers import unwrapped
from subnetworks.core.errors import UserError

Side = dict[str, Tensor]
_PLACES = ("layer", "expert")


def apply(left: Side, right: Side, names: Mapping[str, str]) -> tuple[Side, Side]:
    """Rename what is after to what it was before; take apart what the other side has in parts.

    - `model.norm.weight: norm.weight` renames one tensor, and `model.: model.language_model.`, with
      a dot at the end of both (or nothing), all that begin so and that the other side has.
    - `*` matches a layer's number, a second `*` an expert's.
    - `q + k + v: qkv` are matrices that one side stores fused, stacked by rows.
    - Where one side has no second `*`, it stores the experts as one tensor, expert by expert along
      its first axis (experts × rows × columns). It is taken apart into the other side's matrices,
      also where these are fused (`gate + up: gate_up`).

    What is taken apart bears the names of the side that stores the parts.

    Args:
        left, right: names → parameters, without wrappers.
        names: the map; wrappers in its names do not matter.

    Raises:
        UserError: an entry that fits nothing, or parts that do not fit the whole.
    """
    left, right = dict(left), dict(right)
    for old, new in names.items():
        if _is_prefix(old) and _is_prefix(new):
            used = _move(left, right, old, new)
        else:
            used = _match(left, right, _Entry(old, new))
        if not used:
            raise UserError(f"names: {old!r} → {new!r} fits no tensors of the checkpoints")
    return left, right


def _is_prefix(pattern: str) -> bool:
    return not pattern or pattern.endswith(".")


def _move(left: Side, right: Side, old: str, new: str) -> bool:
    """Rename `new…` to `old…` wherever `left` has it."""
    old, new = (unwrapped(f"{prefix}x")[0][:-1] for prefix in (old, new))
    moved = {
        name: old + name.removeprefix(new)
        for name in right
        if name.startswith(new) and old + name.removeprefix(new) in left
    }
    if old == new:
        return bool(moved)
    for name, target in moved.items():
        if target in right and target not in moved:
            raise UserError(
                f"names: {name!r} and {target!r} would both be {target!r}; map them one by one"
            )
    tensors = {name: right.pop(name) for name in moved}
    right |= {moved[name]: tensor for name, tensor in tensors.items()}
    return bool(moved)


@dataclass(frozen=True)
class _Entry:
    """An entry of the map, with the parts of both its sides."""

    old: str
    new: str

    def __post_init__(self) -> None:
        for pattern in (self.old, self.new):
            stars = {part.count("*") for part in _parts(pattern)}
            if len(stars) > 1 or stars > {0, 1, 2}:
                raise UserError(
                    f"names: {pattern!r}: every part needs as many '*', for a layer and an expert, "
                    "two at most"
                )
        if abs(self.stars(self.old) - self.stars(self.new)) > 1:
            raise UserError(f"names: {self.old!r} → {self.new!r}: '*' on one side only")
        sizes = len(_parts(self.old)), len(_parts(self.new))
        if sizes[0] != sizes[1] and 1 not in sizes:
            raise UserError(f"names: {self.old!r}: {sizes[0]} names to {sizes[1]}")

    @staticmethod
    def stars(pattern: str) -> int:
        """How many numbers a pattern has."""
        return _parts(pattern)[0].count("*")


def _parts(pattern: str) -> list[str]:
    return [unwrapped(part.strip())[0] for part in pattern.split(" + ")]


def _numbers(pattern: str, tensors: Side) -> Iterator[tuple[str, ...]]:
    """What the `*` of a pattern's first part matches in the names that there are."""
    form = re.compile(r"(\d+)".join(map(re.escape, _parts(pattern)[0].split("*"))))
    for name in list(tensors):
        if found := form.fullmatch(name):
            yield found.groups()


def _filled(pattern: str, numbers: tuple[str, ...]) -> list[str]:
    names = []
    for part in _parts(pattern):
        for number in numbers[: part.count("*")]:
            part = part.replace("*", number, 1)
        names.append(part)
    return names


def _match(left: Side, right: Side, entry: _Entry) -> bool:
    olds, news = entry.stars(entry.old), entry.stars(entry.new)
    # The side with more numbers says which there are.
    pattern, tensors = (entry.old, left) if olds >= news else (entry.new, right)
    groups = [
        (_filled(entry.old, numbers), _filled(entry.new, numbers), numbers)
        for numbers in _numbers(pattern, tensors)
    ]
    groups = [
        group
        for group in groups
        if all(name in left for name in group[0]) and all(name in right for name in group[1])
    ]
    if olds == news:
        for old, new, _ in groups:
            _one(left, right, old, new)
    else:
        whole, side = (right, 1) if olds > news else (left, 0)
        counts: dict[str, int] = {}
        for group in groups:
            for name in group[side]:
                counts[name] = counts.get(name, 0) + 1
        stacks = {name: whole.pop(name) for name in counts}
        for name, count in counts.items():
            _check_stack(stacks[name], count)
        for group in groups:
            names = []
            for name in group[side]:
                expert = f"{name}[{int(group[2][-1])}]"
                whole[expert] = _expert(stacks[name], int(group[2][-1]))
                names.append(expert)
            old, new = (names, group[1]) if side == 0 else (group[0], names)
            # The parts' names are those of the other side, also where there is one a part.
            _one(left, right, old, new, parts_before=side == 1)
    return bool(groups)


def _check_stack(stack: Tensor, count: int) -> None:
    if len(stack.shape) != 3 or stack.shape[0] != count:
        raise UserError(
            f"names: {stack.name!r} of shape {'x'.join(map(str, stack.shape))} is no stack of the "
            f"other side's {count} experts"
        )


def _expert(stack: Tensor, number: int) -> Tensor:
    if number >= stack.shape[0]:
        raise UserError(f"names: {stack.name!r} has no expert {number}")
    part = stack.rows(number, number + 1)
    return replace(part, shape=part.shape[1:])


def _one(
    left: Side, right: Side, olds: list[str], news: list[str], parts_before: bool = True
) -> None:
    """Bring one set of tensors together, all of which there are."""
    if len(olds) == len(news):
        if parts_before:
            moved = [right.pop(new) for new in news]
            right |= dict(zip(olds, moved, strict=True))
        else:
            moved = [left.pop(old) for old in olds]
            left |= dict(zip(news, moved, strict=True))
    elif len(news) == 1:
        right |= _cut(right.pop(news[0]), {old: left[old] for old in olds})
    else:
        left |= _cut(left.pop(olds[0]), {new: right[new] for new in news})


def _cut(fused: Tensor, parts: Mapping[str, Tensor]) -> Side:
    """Cut a fused tensor along its first axis into the shapes of `parts`."""
    rows = sum(part.shape[0] if part.shape else 1 for part in parts.values())
    if not fused.shape or rows != fused.shape[0]:
        whole = fused.shape[0] if fused.shape else 1
        raise UserError(f"names: {fused.name!r} has {whole} rows, {' + '.join(parts)} have {rows}")
    cut, start = {}, 0
    for name, part in parts.items():
        stop = start + part.shape[0]
        cut[name], start = fused.rows(start, stop), stop
    return cut
