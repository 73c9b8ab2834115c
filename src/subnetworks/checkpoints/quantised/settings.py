"""What a checkpoint's configuration says of its quantisation."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from subnetworks.core.errors import UserError

# Where configurations keep it: Hugging Face's key, that of older compressed-tensors, and MLX's.
_SECTIONS = ("quantization_config", "compression_config", "quantization")
Block = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """The scheme's name, as `quant_method` has it (None: there is none), and its blocks.

    Attributes:
        method: the scheme.
        blocks: rows and columns that share a scale, in all the sizes that occur.
        details: the whole section.
    """

    method: str | None = None
    blocks: tuple[Block, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """Read `config.json`; `UserError` where sizes of blocks make no sense."""
        for holder in (config, config.get("text_config")):
            for key in _SECTIONS:
                section = holder.get(key) if isinstance(holder, Mapping) else None
                if isinstance(section, Mapping) and section:
                    method = section.get("quant_method") or ("mlx" if key == _SECTIONS[2] else "")
                    blocks = tuple(dict.fromkeys(_blocks(section)))
                    return cls(str(method).lower() or "unnamed", blocks, section)
        return cls()


def _blocks(section: Mapping[str, Any]) -> Iterator[Block]:
    if (size := section.get("weight_block_size")) is not None:
        yield _block("weight_block_size", size)
    if isinstance(size := section.get("group_size"), int) and size > 0:
        yield 1, size
    groups = section.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        if (size := weights.get("block_structure")) is not None:
            yield _block("block_structure", size)
        if isinstance(size := weights.get("group_size"), int) and size > 0:
            yield 1, size


def _block(key: str, value: object) -> Block:
    """Two positive numbers, given as such or as text, such as `128x128`."""
    found = re.fullmatch(r"(\d+)x(\d+)", value) if isinstance(value, str) else None
    sizes = [int(size) for size in found.groups()] if found else value
    if not (
        isinstance(sizes, list)
        and len(sizes) == 2
        and all(type(size) is int and size > 0 for size in sizes)
    ):
        raise UserError(
            f"config.json: {key} is {value!r}, expected rows and columns of a block, such as "
            "[128, 128]: fetch it again"
        )
    return sizes[0], sizes[1]
