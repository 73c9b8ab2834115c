"""What a checkpoint is: one digest of the names, dtypes, shapes and content of all its tensors.

Each chunk of a tensor has a fingerprint (`subnetworks.core.kernels.fingerprint`), the fingerprints
of each task's chunks a BLAKE2b, and these, in order, go with the tensor's name, dtype and shape
into one more BLAKE2b, tensors by name. How they are spread over files does not matter.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import Tensor
from subnetworks.core import kernels
from subnetworks.core.threads import share_out

# The digest depends on all that follows: with other numbers it needs another name.
NAME = "nh64-1"
# Entries of a fingerprint: two chunks fit the second-level cache.
CHUNK = 1 << 17
# Entries that a thread takes at a time; a whole number of chunks, and of bytes of a mask.
TASK = 1 << 22

_Job = tuple[Tensor, int, int]
_Key = tuple[tuple[str, int, int], ...]
_known: dict[_Key, str] = {}


def spans(n: int) -> Iterator[tuple[int, int]]:
    """The tasks of a tensor of `n` entries: from one flat index up to another."""
    return ((start, min(start + TASK, n)) for start in range(0, n, TASK))


class Buffer:
    """Room of one thread for a piece of a tensor of up to `entries`, of whatever dtype.

    Attributes:
        content: the bytes (uint8).
    """

    def __init__(self, entries: int = CHUNK) -> None:
        self.content = np.zeros(entries * 8, np.uint8)
        self._view = memoryview(self.content.data)

    def read(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """Fill with entries; gives them, as unsigned integers of their width, until the next."""
        size = (stop - start) * tensor.itemsize
        tensor.read_into(self._view[:size], start)
        return self.content[:size].view(f"u{tensor.itemsize}")

    def fingerprints(self, piece: np.ndarray) -> list[int]:
        """Those of the chunks of what was read last."""
        padded = -(-piece.nbytes // 8) * 8
        self.content[piece.nbytes : padded] = 0
        words = self.content[:padded].view(np.uint64)
        chunk = CHUNK * piece.itemsize // 8
        return [kernels.fingerprint(words[k : k + chunk]) for k in range(0, words.size, chunk)]


class Hashes:
    """Collects the fingerprints of a checkpoint, from any thread and in any order."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tasks: dict[str, dict[int, bytes]] = {name: {} for name in checkpoint.tensors}

    def add(self, name: str, start: int, fingerprints: Sequence[int]) -> None:
        """Those of all chunks of the task that begins at `start`."""
        packed = np.array(fingerprints, dtype="<u8").tobytes()
        self._tasks[name][start] = hashlib.blake2b(packed, digest_size=16).digest()

    def digest(self) -> str:
        """The digest, once everything is there.

        Raises:
            UserError: the checkpoint's manifest has another.
        """
        total = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self._checkpoint.tensors.items()):
            content = b"".join(digest for _, digest in sorted(self._tasks[name].items()))
            total.update(repr((name, tensor.dtype, tensor.shape, content)).encode())
        found = f"{NAME}:{total.hexdigest()}"
        self._checkpoint.confirm(found)
        return found


def digest(checkpoint: Checkpoint) -> str:
    """The digest of a checkpoint (`nh64-1:…`).

    Reads it once, piece by piece, on all cores, and not again in one process while its files stay
    as they are. Memory: 1 MiB per thread.

    Raises:
        UserError: its manifest has another.
    """
    stats = [(str(path.resolve()), path.stat()) for path in checkpoint.files]
    key = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    if key not in _known or not key:
        _known[key] = _read(checkpoint)
    return _known[key]


def _read(checkpoint: Checkpoint) -> str:
    hashes = Hashes(checkpoint)

    def worker() -> Callable[[_Job], None]:
        buffer = Buffer()

        def run(job: _Job) -> None:
            tensor, begin, end = job
            found: list[int] = []
            for start in range(begin, end, CHUNK):
                found += buffer.fingerprints(buffer.read(tensor, start, min(start + CHUNK, end)))
            hashes.add(tensor.name, begin, found)

        return run

    kernels.prepare()
    jobs = [(t, *span) for t in checkpoint.tensors.values() for span in spans(t.n)]
    share_out("reading", jobs, lambda job: (job[2] - job[1]) * job[0].itemsize, worker)
    return hashes.digest()


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
