"""Sources of masks: one module each, found by this package.

A module's `SETTINGS` is the model of what an experiment says of such a mask, a `MaskSettings` with
the module's name among its keys; `make(request)` writes the mask and returns the number of its set
entries (`subnetworks.measuring.mask_making`), or `scores(request)` gives scores of which the
highest are taken. What computes is imported in functions alone, so that the workflow can read
settings without it. The mask of an update has no module here: it is extracted while the update is
measured.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from subnetworks.core.errors import UserError

if TYPE_CHECKING:
    from subnetworks.measuring.mask_making import MaskSettings


@cache
def names() -> tuple[str, ...]:
    """All sources, by name."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


def load(name: str) -> ModuleType:
    """The module of a source; `UserError` lists those there are."""
    if name not in names():
        from subnetworks.core.validation import not_allowed

        raise UserError(f"mask: {not_allowed(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def parse(entry: Mapping[str, Any]) -> "MaskSettings":
    """The settings of a mask, as a valid experiment has them."""
    found: MaskSettings = load(next(key for key in entry if key in names())).SETTINGS(**entry)
    return found


def with_option(key: str) -> list[str]:
    """The sources that take an option."""
    return [name for name in names() if key in load(name).SETTINGS.options]
