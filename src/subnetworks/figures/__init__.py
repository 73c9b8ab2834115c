"""The paper's figures and those of the controls, one module each, drawn from finished results only.

A figure's module holds `TITLE`, `ALT` (what it shows, for those who cannot see it) and
`draw(context) -> (matplotlib Figure, polars.DataFrame)`; the frame is exactly what is drawn.
"""

import importlib
import pkgutil
from types import ModuleType

from subnetworks.errors import UserError

_FOUND = sorted(module.name for module in pkgutil.iter_modules(__path__))
NAMES = tuple(name for name in _FOUND if name.startswith("figure_"))
"""The paper's figures, in its order."""
CONTROLS = tuple(name for name in _FOUND if name.startswith("control_"))
"""Figures of what the paper's readers ask next."""


def load(name: str) -> ModuleType:
    """The module of the figure `name`; `UserError` lists the known ones."""
    if name not in NAMES + CONTROLS:
        raise UserError(f"no figure {name!r}; there are: {', '.join(NAMES + CONTROLS)}")
    return importlib.import_module(f"{__name__}.{name}")
