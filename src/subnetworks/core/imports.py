"""Importing much without looking for garbage among it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

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
