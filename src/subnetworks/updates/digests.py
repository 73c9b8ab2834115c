"""The digest of a checkpoint's content, as `measure` gives it, without measuring anything."""

from subnetworks.checkpoints import Checkpoint
from subnetworks.updates.measuring import count
from subnetworks.updates.rules import Rules, Selection

_Key = tuple[tuple[str, int, int], ...]
_known: dict[_Key, str] = {}


def digest(checkpoint: Checkpoint) -> str:
    """Names, dtypes, shapes and content of all tensors in one digest (`nh64-1:…`).

    How the tensors are spread over files does not matter. Reads the checkpoint once, piece by
    piece, and not again in one process while its files stay as they are.
    """
    stats = [(str(path.resolve()), path.stat()) for path in checkpoint.files]
    key = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    if key not in _known or not key:
        nothing = Checkpoint("nothing", {})
        _known[key] = count(nothing, checkpoint, [], [], Rules(), Selection()).digests["after"]
    return _known[key]
