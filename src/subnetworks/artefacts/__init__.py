"""The paper's tables and figures, and those of the controls: one module each.

They read finished results only. See `base` for what a module holds.
"""

from functools import cache
from typing import TypeVar

from subnetworks.artefacts.base import Artefact, Figure, Table
from subnetworks.core.errors import UserError
from subnetworks.core.imports import modules_in

Kind = TypeVar("Kind", Table, Figure)
# The paper's order, by what it calls them, then the controls.
_ORDER = ("Table", "Conjecture", "Section", "Figure", "")

__all__ = ["Artefact", "Figure", "Table", "every", "load", "of_kind"]


@cache
def every() -> dict[str, Artefact]:
    """All artefacts by name: those of the paper in its order, then the controls."""
    artefacts: list[Artefact] = [
        module.ARTEFACT for module in modules_in(__name__).values() if hasattr(module, "ARTEFACT")
    ]
    artefacts.sort(key=lambda found: (_ORDER.index(found.label.partition(" ")[0]), found.name))
    return {found.name: found for found in artefacts}


def of_kind(kind: type[Kind]) -> list[Kind]:
    """All tables, or all figures."""
    return [found for found in every().values() if isinstance(found, kind)]


def load(name: str, kind: type[Kind]) -> Kind:
    """The table or figure `name`.

    Raises:
        UserError: there is none; lists those there are.
    """
    known = {found.name: found for found in of_kind(kind)}
    if name not in known:
        raise UserError(f"no {kind.__name__.lower()} {name!r}; there are: {', '.join(known)}")
    return known[name]
