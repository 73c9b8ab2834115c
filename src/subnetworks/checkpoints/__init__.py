"""Checkpoints: open and stream them, say what is in them, fetch them."""

from subnetworks.checkpoints.fetching import fetch
from subnetworks.checkpoints.manifest import write_manifest
from subnetworks.checkpoints.reading import Checkpoint, open, places
from subnetworks.checkpoints.storage import Tensor

__all__ = ["Checkpoint", "Tensor", "fetch", "open", "places", "write_manifest"]
