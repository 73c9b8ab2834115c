"""Importing much without looking for garbage among it, and importing whatever a package holds."""

import gc
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# New objects between two collections, by default 700: an import or a step makes hundreds of
# thousands.
_OBJECTS = 100_000


@contextmanager
def lasting() -> Iterator[None]:
    """What is imported within stays as long as the process: it is never searched for garbage.

    verl, vLLM and transformers make two million objects. Python would look through them again and
    again, and so would each of the trainers' own calls of its collector.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_OBJECTS)
        gc.enable()


def modules_in(package: str) -> dict[str, ModuleType]:
    """The modules of a package by name, sorted: what is added by adding a file is found by this."""
    path = importlib.import_module(package).__path__
    return {
        found.name: importlib.import_module(f"{package}.{found.name}")
        for found in sorted(pkgutil.iter_modules(path), key=lambda found: found.name)
    }
