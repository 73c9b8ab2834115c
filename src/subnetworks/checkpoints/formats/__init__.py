"""The formats of checkpoints, one module each, with one face (`contents.Format`).

To add a format is to add its module, with `recognises` and `read`, to `FORMATS`. A format that is a
folder of pickles with classes of its own reads them with `pickles.read(data, where, records=…)`,
which runs nothing and gives objects of these classes as inert `pickles.Record`s; the tensors in it
are `pickles.View`s, which `archives.Archive.tensor` makes tensors of, to be read where they lie.
"""

from pathlib import Path

from subnetworks.checkpoints.formats import (
    adapter,
    dcp,
    safetensors,
    slices,
    torch_zip,
    verl_fsdp,
    zero,
)
from subnetworks.checkpoints.formats.contents import Contents, Format

__all__ = ["FORMATS", "Contents", "Format", "of"]

# Asked in this order: what is more special comes first.
FORMATS: tuple[Format, ...] = (verl_fsdp, dcp, slices, zero, adapter, safetensors, torch_zip)


def of(path: Path) -> Format | None:
    """The format of a file or folder; None if it is of none. Raises as `Format.recognises`."""
    return next((found for found in FORMATS if found.recognises(path)), None)
