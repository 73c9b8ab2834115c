"""The paper's tables and those of the controls, one module each, read from finished results only.

A table's module holds `TITLE`, `COLUMNS` (how it is shown), `NOTES` and
`build(context) -> polars.DataFrame` (the full numbers, which the `.csv` keeps).
"""

import importlib
import pkgutil
from types import ModuleType

from subnetworks.errors import UserError

_FOUND = sorted(module.name for module in pkgutil.iter_modules(__path__))
NAMES = tuple(
    name
    for kind in ("table_", "conjecture_", "section_")
    for name in _FOUND
    if name.startswith(kind)
)
"""The paper's tables, in its order."""
CONTROLS = tuple(name for name in _FOUND if name.startswith("control_"))
"""Tables of what the paper's readers ask next."""


def load(name: str) -> ModuleType:
    """The module of the table `name`; `UserError` lists the known ones."""
    if name not in NAMES + CONTROLS:
        raise UserError(f"no table {name!r}; there are: {', '.join(NAMES + CONTROLS)}")
    return importlib.import_module(f"{__name__}.{name}")
