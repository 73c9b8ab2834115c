"""Checkpoints: open and stream them, say what is in them, fetch them."""

from typing import Any

from subnetworks.checkpoints.manifest import write_manifest
from subnetworks.checkpoints.reading import Checkpoint, open, places
from subnetworks.checkpoints.storage import Tensor

__all__ = ["Checkpoint", "Tensor", "fetch", "open", "places", "write_manifest"]


def __getattr__(name: str) -> Any:
    """`fetch`, with all that speaks to the Hub, is loaded when it is asked for."""
    if name != "fetch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from subnetworks.checkpoints.fetching import fetch

    return fetch
