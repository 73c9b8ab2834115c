"""Packages that only building an artefact needs, imported when it is built.

Snakemake reads what each artefact shows, needs and says in an environment that has none of them.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    """Stands for a package; its modules and names are looked up when they are used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # introspection is no use
            raise AttributeError(name)
        package = importlib.import_module(self.__name__)
        if not hasattr(package, name):
            importlib.import_module(f"{self.__name__}.{name}")
        return getattr(package, name)


if TYPE_CHECKING:
    import matplotlib as matplotlib
    import polars as polars
else:
    matplotlib, polars = _Lazy("matplotlib"), _Lazy("polars")
