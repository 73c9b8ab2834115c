"""By which files artefacts and the report are made: changing one makes again what it makes."""

import ast
from functools import cache
from pathlib import Path

from subnetworks.artefacts.base import Artefact

_LIBRARY = Path(__file__).parents[1]
_CLAIMS = Path(__file__).with_name("claims.py")


def of_artefact(artefact: Artefact) -> list[Path]:
    """Its module, and of this package and `results` what that imports, itself or through others."""
    found: set[Path] = set()
    waiting = [artefact.source]
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting += _imports(source)
    return sorted(found)


def of_report() -> list[Path]:
    """The report's own modules and templates."""
    pages = [path for path in (_LIBRARY / "report").iterdir() if path.is_file()]
    return sorted([*pages, _CLAIMS])


@cache
def _imports(source: Path) -> list[Path]:
    places = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            places += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    paths = (_LIBRARY.parent.joinpath(*place.split(".")).with_suffix(".py") for place in places)
    shown = (_LIBRARY / "artefacts", _LIBRARY / "core" / "results.py")
    return [
        path
        for path in paths
        # What an artefact claims of its numbers is not among them.
        if path.exists() and path != _CLAIMS and (path.parent in shown or path in shown)
    ]
