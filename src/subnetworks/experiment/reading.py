"""YAML as people write it: each key with its line, numbers as the numbers they look like."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from subnetworks.core.errors import UserError
from subnetworks.core.validation import Origin, Place

# YAML 1.1, which PyYAML reads, takes 5e-7 for text.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
# 010 is eight in YAML 1.1 and ten in YAML 1.2; 1:30 is ninety, and text.
_AMBIGUOUS = re.compile(r"[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, as far as scalars go."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True)
class Document:
    """What a YAML file holds, and where."""

    value: Any
    origin: Origin


def read(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: there is none, it is not UTF-8 or not YAML, a key is there twice, or a number can
            be read in two ways or is none; one line that names the file, the line and the key.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        others = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(f"{path}: no such file; there are: {', '.join(others)}") from error
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise UserError(
            f"{path}:{number}: not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8"
        ) from None
    lines: dict[Place, int] = {}
    origin = Origin(str(path), lines)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}:{line}: not valid YAML: the character U+{error.character:04X}: remove it"
        ) from error
    try:
        node = loader.get_single_node()
        value = None if node is None else _Reader(loader, origin, lines).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        said = ", ".join(filter(None, (error.problem, error.context)))
        raise UserError(f"{where}: not valid YAML: {' '.join(said.split())}") from error
    finally:
        loader.dispose()
    return Document(value, origin)


class _Reader:
    """Turns nodes into values, and notes the line of every key."""

    def __init__(self, loader: _Loader, origin: Origin, lines: dict[Place, int]) -> None:
        self.loader, self.origin, self.lines = loader, origin, lines
        self.above: list[yaml.Node] = []

    def value(self, node: yaml.Node, place: Place) -> Any:
        """What a node holds; `place` is where it is."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if any(node is other for other in self.above):
            raise self.origin.error(place, "holds itself, through an alias of YAML")
        self.above.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, place)
        finally:
            self.above.pop()

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        plain = node.style is None
        if plain and _AMBIGUOUS.fullmatch(node.value):
            raise self.origin.error(
                place,
                f"{node.value} can be read as two different numbers: write it without a leading 0 "
                "or a colon, or in quotes if it is text",
            )
        if plain and node.tag == "tag:yaml.org,2002:float":
            number = float(node.value.replace("_", "")) if _finite(node.value) else math.nan
            if not math.isfinite(number):
                raise self.origin.error(place, f"{node.value} is not a finite number")
            return number
        try:
            return self.loader.construct_object(node, deep=True)
        except ValueError as error:  # a day that no calendar has
            raise self.origin.error(place, f"{node.value}: {error}") from error

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                for source in self._sources(value_node, place):
                    merged = {**source, **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.origin.error(place, "a key is a list or a mapping; expected a name")
            key = self._scalar(key_node, place)
            inside = (*place, key if isinstance(key, int) else str(key))
            self.lines[inside] = line
            if key in first:
                raise self.origin.error(
                    place, f"the key {str(key)!r} is there twice (first in line {first[key]})", key
                )
            first[key] = line
            found[key] = self.value(value_node, inside)
        return {**merged, **found}

    def _sources(self, node: yaml.Node, place: Place) -> list[Mapping[Any, Any]]:
        """What `<<` takes in, the first of several before the others."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self.value(source, place) for source in nodes]
        for value in values:
            if not isinstance(value, Mapping):
                raise self.origin.error(place, f"<<: expected keys and values, got {value!r}", "<<")
        return values


def _finite(text: str) -> bool:
    return not re.search(r"nan|inf", text, re.IGNORECASE)
