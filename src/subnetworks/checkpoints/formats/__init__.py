"""The formats of checkpoints, one module each, with one face (`contents.Format`).

To add a format is to add its module here, with `recognises` and `read`. A format that is a folder
of pickles with classes of its own reads them with `pickles.read(data, where, records=…)`, which
runs nothing and gives objects of these classes as inert `pickles.Record`s; the tensors in it are
`pickles.View`s, which `archives.Archive.tensor` makes tensors of, to be read where they lie.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.formats.contents import Contents, Format
from subnetworks.core.imports import modules_in

__all__ = ["Contents", "Format", "among", "of", "special"]

_MODULES: list[Any] = [
    module for module in modules_in(__name__).values() if hasattr(module, "recognises")
]
_SPECIAL: list[Format] = [module for module in _MODULES if not getattr(module, "PLAIN", False)]
_PLAIN: list[Format] = [module for module in _MODULES if module not in _SPECIAL]


def of(path: Path) -> Format | None:
    """The format of a file or folder; None if it is of none. Raises as `Format.recognises`."""
    return next((found for found in (*_SPECIAL, *_PLAIN) if found.recognises(path)), None)


def special(path: Path) -> Format | None:
    """The format of a file or folder, if that says itself which of its files are read."""
    return next((found for found in _SPECIAL if found.recognises(path)), None)


def among(names: Sequence[str]) -> list[str]:
    """The files that are needed of a folder with these, if by their names it is of such a format.

    A format that can tell has a function of this name, too.
    """
    asked = (found.among(names) for found in _MODULES if hasattr(found, "among"))
    return next(filter(None, asked), [])
