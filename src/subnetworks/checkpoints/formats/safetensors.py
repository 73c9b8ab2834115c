"""Safetensors files: headers checked before they are believed."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.formats import folders, strangers
from subnetworks.checkpoints.formats.contents import UNKNOWN, Contents
from subnetworks.checkpoints.storage import ITEMSIZE, File, Span, Tensor
from subnetworks.checkpoints.weights import INDEX, SAFE
from subnetworks.core.errors import UserError

PLAIN = True
_MAX_HEADER = 100_000_000  # the format's own limit


def recognises(path: Path) -> bool:
    """A `.safetensors` file, its index, or a folder whose weights are such files."""
    if path.is_dir():
        found = folders.choice(path)
        return found is not None and not found.torch
    return path.name.endswith((SAFE, INDEX))


def read(path: Path) -> Contents:
    """As `contents.Format.read`."""
    return folders.read(path, INDEX, _read_file)


def _read_file(path: Path, prefix: str = "") -> Contents:
    unknown: dict[str, tuple[str, tuple[int, ...]]] = {}
    file, tensors, metadata = read_tensors(path, prefix, unknown)
    if str(metadata.get("format")).startswith("subnetworks-"):
        file.close()
        kind = metadata["format"].split("-")[1]
        remedy = "name that of the weights" if kind == "mask" else "name one file, not its folder"
        raise UserError(f"{path}: a {kind}, not a part of a checkpoint; {remedy}")
    reasons = {name: f"{UNKNOWN} ({ascii(dtype)[:40]})" for name, (dtype, _) in unknown.items()}
    shapes = {name: shape for name, (_, shape) in unknown.items()}
    return Contents(tensors, reasons, shapes, files=[path], open=[file])


def read_header(file: File, *, any_dtype: bool = False) -> tuple[dict[str, Any], int]:
    """The header (checked for sense) and the offset at which the data begins.

    With `any_dtype` a tensor may have a dtype that is not one of `ITEMSIZE`.

    Raises:
        UserError: not a safetensors file, cut short, or with offsets that contradict each other.
    """
    path = file.path
    if not file.size:
        raise UserError(f"{path}: {strangers.described(file)}")
    if file.size < 8:
        raise UserError(f"{path}: only {file.size} bytes, cut short: fetch it again")
    length = bytearray(8)
    file.read_into(length, 0)
    (size,) = struct.unpack("<Q", length)
    if size > min(_MAX_HEADER, file.size - 8) and (what := strangers.described(file)):
        raise UserError(f"{path}: {what}")
    if size > _MAX_HEADER:
        raise UserError(
            f"{path}: header of {size} bytes, over the format's limit of {_MAX_HEADER}: "
            "not a safetensors file, or a damaged one"
        )
    if size > file.size - 8:
        raise UserError(
            f"{path}: header of {size} bytes in a file of {file.size}, cut short: fetch it again"
        )
    text = bytearray(size)
    file.read_into(text, 8)
    try:
        header = json.loads(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: header is not a JSON object: the file is damaged") from error
    _check(header, file, 8 + size, any_dtype)
    return header, 8 + size


def _check(header: dict[str, Any], file: File, data: int, any_dtype: bool) -> None:
    """Every entry well-formed, and together they fill the data exactly."""
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            if not (isinstance(entry, dict) and all(isinstance(v, str) for v in entry.values())):
                raise UserError(
                    f"{file.path}: metadata is not a map from text to text: the file is damaged"
                )
            continue
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
            numbers = [begin, end, *shape]
            if not all(type(x) is int and x >= 0 for x in numbers):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file.path}: tensor {name!r}: malformed header entry: the file is damaged"
            ) from error
        if not isinstance(dtype, str) or not (dtype in ITEMSIZE or any_dtype):
            raise UserError(
                f"{file.path}: tensor {name!r}: unknown dtype {dtype!r}; "
                f"known: {', '.join(ITEMSIZE)}"
            )
        if dtype in ITEMSIZE and end - begin != math.prod(shape) * ITEMSIZE[dtype]:
            raise UserError(
                f"{file.path}: tensor {name!r}: {end - begin} bytes do not hold shape {shape} "
                f"of {dtype}: the file is damaged"
            )
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise UserError(
                f"{file.path}: tensor {name!r}: data overlaps another's or leaves a gap: "
                "the file is damaged"
            )
        position = end
    if data + position != file.size:
        state = "cut short" if data + position > file.size else "longer than its header says"
        raise UserError(
            f"{file.path}: {file.size} bytes, header says {data + position}: {state}; "
            "fetch it again"
        )


def read_tensors(
    path: Path,
    prefix: str = "",
    unknown: dict[str, tuple[str, tuple[int, ...]]] | None = None,
) -> tuple[File, dict[str, Tensor], dict[str, str]]:
    """All tensors of one file by name, and its metadata. Raises `UserError` as `read_header`.

    Tensors of a dtype that is not known are refused, or, where `unknown` is given, left out and
    named there with dtype and shape.
    """
    file = File(path)
    header, data = read_header(file, any_dtype=unknown is not None)
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in header.items():
        if unknown is not None and entry["dtype"] not in ITEMSIZE:
            unknown[prefix + name] = entry["dtype"], tuple(entry["shape"])
            continue
        reader = Span(file, data + entry["data_offsets"][0])
        tensors[prefix + name] = Tensor(
            prefix + name, entry["dtype"], tuple(entry["shape"]), reader, str(path)
        )
    return file, tensors, metadata
