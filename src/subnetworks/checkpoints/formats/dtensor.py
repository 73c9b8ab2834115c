"""torch's DTensors in a pickle: which block of a tensor a process of a training held.

A DTensor is pickled with the block itself, the shape of the whole, and for each axis of the mesh of
processes how the tensor lies along it: `Shard(d)` splits axis d of the tensor as `torch.chunk`
does, `Replicate` gives each process all of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from subnetworks.checkpoints.formats.pickles import Name, Record, View
from subnetworks.core.errors import UserError

_FUNCTION = "torch._tensor._rebuild_from_type_v2"
_TENSORS = (
    "torch.distributed.tensor.DTensor",
    "torch.distributed.tensor._api.DTensor",
    "torch.distributed._tensor.DTensor",
    "torch.distributed._tensor.api.DTensor",
)
_PLACES = ("torch.distributed.tensor.placement_types", "torch.distributed._tensor.placement_types")
_PLACEMENTS = ("Shard", "Replicate", "Partial", "_Partial", "_StridedShard", "_MaskPartial")
# torch has moved these between versions.
RECORDS = frozenset(
    [
        _FUNCTION,
        "torch._utils._rebuild_wrapper_subclass",
        "torch.serialization._get_layout",
        *_TENSORS,
        *(f"{module}.{name}" for module in _PLACES for name in _PLACEMENTS),
        *(f"torch.distributed.tensor.{name}" for name in _PLACEMENTS),
        *(
            f"{module}.{name}"
            for module in ("torch.distributed.tensor._dtensor_spec", *_PLACES)
            for name in ("DTensorSpec", "TensorMeta", "ShardOrderEntry")
        ),
        "torch.distributed.device_mesh.DeviceMesh",
        "torch.distributed._tensor.device_mesh.DeviceMesh",
        "torch.distributed._mesh_layout._MeshLayout",
        "torch.distributed._mesh_layout._FlatLayout",
    ]
)
_MERGE = "merge it with the trainer's own tool (verl: python -m verl.model_merger merge)"


@dataclass(frozen=True)
class Block:
    """What one process held of a tensor of shape `shape`: `local`, from `offsets` on."""

    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    local: View


def is_dtensor(value: object) -> bool:
    """Whether a value of a pickle is a DTensor."""
    return (
        isinstance(value, Record)
        and value.name == _FUNCTION
        and len(value.arguments) == 4
        and isinstance(value.arguments[1], Name)
        and value.arguments[1].name in _TENSORS
    )


def block(value: object, what: str, rank: int) -> Block:
    """The block that the process `rank` held, and where it lies.

    Raises:
        UserError: laid out in a way that is not understood, or not as it says.
    """
    damaged = UserError(f"{what}: not described as torch describes a DTensor: save it again")
    state = value.arguments[3] if isinstance(value, Record) and is_dtensor(value) else None
    local, spec = _field(state, "_local_tensor"), _field(state, "_spec")
    mesh, placements = _field(spec, "mesh", "_mesh"), _field(spec, "placements", "_placements")
    meta = _field(spec, "tensor_meta")
    if not (isinstance(local, View) and isinstance(meta, Record) and meta.arguments):
        raise damaged
    shape = _as_sizes(meta.arguments[0])
    if not isinstance(placements, tuple | list) or shape is None:
        raise damaged
    sizes = _mesh_shape(mesh)
    where = _coordinates(mesh, sizes, rank)
    if sizes is None or where is None or len(placements) != len(sizes):
        raise damaged
    if not _in_order(_field(spec, "shard_order")):
        raise UserError(f"{what}: split over processes in another order than the mesh's; {_MERGE}")
    offsets, extent = [0] * len(shape), list(shape)
    for placement, count, index in zip(placements, sizes, where, strict=True):
        kind = placement.name.rpartition(".")[2] if isinstance(placement, Record) else "?"
        if kind == "Replicate":
            continue
        axis = _field(placement, "dim")
        if kind != "Shard" or type(axis) is not int or not -len(shape) <= axis < len(shape):
            raise UserError(
                f"{what}: laid out over processes as {kind}, which is not read here; {_MERGE}"
            )
        step = -(-extent[axis] // count)
        begin = min(index * step, extent[axis])
        offsets[axis] += begin
        extent[axis] = min(step, extent[axis] - begin)
    if tuple(extent) != local.shape:
        raise UserError(
            f"{what}: a part of {list(local.shape)} where rank {rank} should have {extent} of "
            f"{list(shape)}; the file is damaged, or of another training: save it again"
        )
    return Block(shape, tuple(offsets), local)


def _field(value: object, *names: str) -> object:
    """An attribute of an object by its state, under the first of the names that it has."""
    state = value.state if isinstance(value, Record) else value
    # An object with slots has two states.
    for part in state if isinstance(state, tuple) else (state,):
        for name in names:
            if isinstance(part, Mapping) and name in part:
                return part[name]
    return None


def _in_order(entries: object) -> bool:
    """Whether an axis that several axes of the mesh split is split by them in their order."""
    for entry in entries if isinstance(entries, tuple | list) else ():
        axes = _as_sizes(entry.arguments[-1]) if isinstance(entry, Record) else None
        if axes is None or list(axes) != sorted(axes):
            return False
    return True


def _as_sizes(value: object) -> tuple[int, ...] | None:
    """A tuple or list of numbers that are not negative, or None."""
    if isinstance(value, tuple | list) and all(type(x) is int and x >= 0 for x in value):
        return tuple(value)
    return None


def _mesh_shape(mesh: object) -> tuple[int, ...] | None:
    """How many processes along each axis of a mesh."""
    stored = _field(mesh, "mesh", "_mesh")
    if isinstance(stored, View):
        return stored.shape
    layout = _field(mesh, "_layout")
    axes = _field(layout, "axes")
    if isinstance(axes, tuple):
        shapes = [_field(axis, "shape", "_shape") for axis in axes]
    else:
        whole = _field(layout, "shape", "_shape")
        shapes = list(whole) if isinstance(whole, tuple) else [whole]
    sizes = []
    for shape in shapes:
        found = _as_sizes((shape,) if type(shape) is int else shape)
        if found is None:
            return None
        sizes.append(math.prod(found))
    return tuple(sizes)


def _coordinates(mesh: object, sizes: tuple[int, ...] | None, rank: int) -> tuple[int, ...] | None:
    """Where on the mesh the process was that wrote the file."""
    stored = _field(mesh, "_coordinate_on_dim")
    if sizes is None:
        return None
    if stored is None and len(sizes) == 1:
        stored = (rank,)
    found = _as_sizes(stored)
    if found is None or len(found) != len(sizes):
        return None
    if any(a >= b for a, b in zip(found, sizes, strict=True)):
        return None
    return found
