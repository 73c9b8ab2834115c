"""How much of two checkpoints is compared, and when that is too little to speak of an update.

`compared_share` is the number of entries compared, of those that the parameters of both checkpoints
have together: a parameter that both have counts once (where its shape differs, in the larger one),
and so does a head that is its embedding. Buffers do not count. For ranks the share is that of
matrices, for masks that of the entries of all masks together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from subnetworks.checkpoints.tensors import place
from subnetworks.core.errors import UserError

ENOUGH = 0.99


class Kind(Enum):
    """Why a parameter is left out; `NONE`: it is none, or is counted under another name."""

    NONE = ""
    BEFORE = "only in before"
    AFTER = "only in after"
    SHAPES = "of different shapes"
    ROWS = "of different numbers of rows"
    OTHER_ROWS = "rows on one side only"
    INTEGERS = "integers"
    UNREAD = "of a dtype that is not known"


@dataclass(frozen=True)
class Excluded:
    """A tensor that is not compared, and why; `shape` is that of what is left out."""

    name: str
    reason: str
    kind: Kind = Kind.NONE
    shape: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Entries left out that would have to be compared to compare all."""
        return 0 if self.kind is Kind.NONE else math.prod(self.shape)

    @property
    def is_inner_matrix(self) -> bool:
        """Whether it is a matrix within a layer."""
        return self.n > 0 and len(self.shape) > 1 and place(self.name).layer is not None


def left_out(excluded: Sequence[Excluded]) -> int:
    """Entries left out, of each parameter once."""
    sizes: dict[str, int] = {}
    for entry in excluded:
        sizes[entry.name] = max(sizes.get(entry.name, 0), entry.n)
    return sum(sizes.values())


def share(compared: int, excluded: Sequence[Excluded]) -> float:
    """Entries compared, of all."""
    whole = compared + left_out(excluded)
    return compared / whole if whole else 1.0


def is_partial(compared: int, excluded: Sequence[Excluded]) -> bool:
    """Whether less than 99 % of the entries are compared, or a matrix within a layer is not."""
    few = share(compared, excluded) < ENOUGH
    return few or any(entry.is_inner_matrix for entry in excluded)


def check(
    sources: tuple[str, str],
    compared: int,
    excluded: Sequence[Excluded],
    empties: Mapping[str, Sequence[str]],
    allow_partial: bool,
) -> None:
    """Refuse a comparison of a part, unless that is wanted.

    A part is less than 99 % of the entries, or what leaves out a matrix within a layer. Rows of an
    embedding or head that one side only has are not missed where common rows were asked for.

    Args:
        sources: both checkpoints, as the user named them.
        compared: entries compared.
        excluded: what is left out.
        empties: source → its parameters of shape 0.
        allow_partial: whether a part is wanted.

    Raises:
        UserError: names what is left out, on which side, and what to do about it.
    """
    if allow_partial:
        return
    for source, names in empties.items():
        if names:
            raise UserError(
                f"{source}: {_such_as(names)}: empty (shape 0), as a ZeRO-3 or FSDP model is saved "
                "without gathering its weights: gather and save them again (DeepSpeed: "
                "stage3_gather_16bit_weights_on_model_save, or zero_to_fp32.py), or compare the "
                "rest alone (--allow-partial)"
            )
    missed = [
        entry
        for entry in excluded
        if entry.n and (entry.kind is not Kind.OTHER_ROWS or entry.is_inner_matrix)
    ]
    if not compared and not any(entry.kind is Kind.ROWS for entry in missed):
        return  # nothing in common at all, which has an error of its own
    if not is_partial(compared, missed):
        return
    by_kind: dict[Kind, list[Excluded]] = {}
    for entry in missed:
        by_kind.setdefault(entry.kind, []).append(entry)
    kinds = sorted(by_kind, key=lambda kind: -left_out(by_kind[kind]))
    whole = compared + left_out(excluded)
    causes = "; ".join(_cause(kind, by_kind[kind], sources) for kind in kinds)
    raise UserError(
        f"{sources[0]} and {sources[1]}: only {compared / whole:.2%} of the entries would be "
        f"compared ({compared:,} of {whole:,}); left out are {causes}; {_remedy(by_kind)}, or "
        "compare the rest alone (--allow-partial)"
    )


def _such_as(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def _cause(kind: Kind, entries: Sequence[Excluded], sources: tuple[str, str]) -> str:
    entries = sorted(entries, key=lambda entry: -entry.n)
    names = _such_as([entry.name for entry in entries])
    match kind:
        case Kind.BEFORE | Kind.AFTER:
            return f"{names}, only in {sources[kind is Kind.AFTER]}"
        case Kind.INTEGERS | Kind.UNREAD:
            return f"{names}, {entries[0].reason}"
    return f"{names} ({entries[0].reason})"


def _remedy(by_kind: Mapping[Kind, Sequence[Excluded]]) -> str:
    if by_kind.keys() <= {Kind.ROWS, Kind.OTHER_ROWS} and not any(
        entry.is_inner_matrix for entries in by_kind.values() for entry in entries
    ):
        return "the vocabulary was resized: compare the common rows (--common-rows)"
    if Kind.UNREAD in by_kind:
        return "compare releases whose weights are of a dtype that is read here"
    one_side = [*by_kind.get(Kind.BEFORE, ()), *by_kind.get(Kind.AFTER, ())]
    if any(len(e.shape) == 3 and place(e.name).layer is not None for e in one_side):
        return (
            "experts stored as one tensor are compared with single ones by a map of names (--names)"
            " such as 'model.layers.*.mlp.experts.*.down_proj.weight: "
            "model.layers.*.mlp.experts.down_proj'"
        )
    if Kind.BEFORE in by_kind and Kind.AFTER in by_kind:
        return "map the names (--names)"
    if Kind.ROWS in by_kind:
        return "compare the common rows (--common-rows) and complete checkpoints"
    return "compare complete checkpoints of one model"
