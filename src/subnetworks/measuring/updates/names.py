"""Names of one parameter that differ by what a model lies within."""

from collections.abc import Iterable, Mapping
from typing import Any

from subnetworks.checkpoints import Tensor
from subnetworks.core.errors import UserError

# Modules around a text model or its backbone, which leave its own names as they are.
_AROUND = frozenset(
    ("model", "language_model", "text_model", "thinker", "llm", "transformer", "gpt_neox")
)


def bare(name: str) -> str:
    """A name without the modules around a text model: what two models of one backbone share."""
    parts = name.split(".")
    place = 0
    while place < len(parts) - 1 and parts[place] in _AROUND:
        place += 1
    return ".".join(parts[place:])


def _by_bare(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(bare(name), []).append(name)
    return found


def align(
    left: Mapping[str, Tensor], right: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Rename what only `right` has to what only `left` has, where only known modules around differ.

    So the text backbone of a vision-language model meets the text model. Also how, one row per pair
    of prefixes: `before`, `after`, `tensors`.

    Raises:
        UserError: two tensors of one side may be the same one of the other.
    """
    lefts = _by_bare(name for name in left if name not in right)
    rights = _by_bare(name for name in right if name not in left)
    renamed: dict[str, str] = {}
    counts: dict[tuple[str, str], int] = {}
    for key in sorted(lefts.keys() & rights.keys()):
        for one, other in ((lefts[key], rights[key]), (rights[key], lefts[key])):
            if len(one) > 1:
                raise UserError(
                    f"{source}: {one[0]!r} and {one[1]!r} may both be {other[0]!r} of the other "
                    "checkpoint; say which is (--names)"
                )
        old, new = lefts[key][0], rights[key][0]
        renamed[new] = old
        prefixes = old.removesuffix(key), new.removesuffix(key)
        counts[prefixes] = counts.get(prefixes, 0) + 1
    aligned = {renamed.get(name, name): tensor for name, tensor in right.items()}
    rows = [
        {"before": old, "after": new, "tensors": count}
        for (old, new), count in sorted(counts.items())
    ]
    return aligned, rows
