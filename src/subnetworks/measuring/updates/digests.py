"""The digest of a checkpoint's content, as `measure` gives it, without measuring anything."""

from pathlib import Path

from subnetworks.checkpoints import Checkpoint
from subnetworks.checkpoints import open as open_checkpoint
from subnetworks.measuring.updates.measuring import count
from subnetworks.measuring.updates.rules import Rules, Selection

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


def verify(checkpoint: Checkpoint) -> None:
    """Compare a checkpoint's content with its manifest, if it has one, in one reading.

    By the digest of its tensors where the manifest has that: much faster than by its files'.

    Raises:
        UserError: a file is damaged.
    """
    if checkpoint.content is None:
        checkpoint.verify()
    else:
        checkpoint.confirm(digest(checkpoint))


def of_folder(folder: Path) -> str:
    """The digest of the checkpoint in a folder that has no manifest yet."""
    with open_checkpoint(folder) as checkpoint:
        return digest(checkpoint)
