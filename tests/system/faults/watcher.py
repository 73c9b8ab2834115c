"""Watch a results folder: whatever carries a final name must be whole, at every moment.

Standard library only, so that it runs beside the workflow in any environment.
"""

import contextlib
import csv
import io
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.01
# What is read by no stage, or only by the trainer that left it: its own unfinished state.
_UNFINISHED = {"logs", "state"}
_LOGS = {"train.log", "server.log"}


def _safetensors(content: bytes) -> None:
    (size,) = struct.unpack_from("<Q", content)
    entries = json.loads(content[8 : 8 + size])
    end = max((e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"), default=0)
    assert len(content) == 8 + size + end, "cut short"


def _parquet(content: bytes) -> None:
    assert content[:4] == content[-4:] == b"PAR1", "cut short"
    (size,) = struct.unpack("<I", content[-8:-4])
    assert 0 < size <= len(content) - 12, "footer out of range"


def _csv(content: bytes) -> None:
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows and content.endswith(b"\n"), "cut short"
    assert len({len(row) for row in rows}) == 1, "rows of different length"


def _ends(*marks: bytes) -> Callable[[bytes], None]:
    def check(content: bytes) -> None:
        assert content.rstrip().endswith(marks), "cut short"

    return check


def _lines(content: bytes) -> None:
    assert content.endswith(b"\n"), "cut short"
    for line in content.splitlines():
        json.loads(line)


CHECKS: dict[str, Callable[[bytes], None]] = {
    ".json": lambda content: json.loads(content),
    ".jsonl": _lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".png": _ends(b"IEND\xaeB`\x82"),
    ".pdf": _ends(b"%%EOF"),
    ".svg": _ends(b"</svg>"),
    ".html": _ends(b"</html>"),
    ".tex": _ends(b"\n", b"}"),
    ".md": _ends(b""),
    ".jinja": _ends(b""),
}


class Watcher:
    """A thread that parses each new file with a final name, and looks at what manifests list.

    Attributes:
        broken: what was found wrong, in words.
        ignored: files that were damaged on purpose.
        files: how many versions of files were parsed.
        rounds: how often the folder was gone through.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[str] = []
        self.ignored: set[Path] = set()
        self.files = self.rounds = 0
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._manifests: dict[Path, dict[str, int]] = {}
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Look away while the campaign itself changes the folder, and start over."""
        with self._looking:
            yield
            self._seen, self._manifests = {}, {}

    def look(self) -> None:
        """Go through the folder once."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        self.rounds += 1
        for path in self._final(self.folder):
            if path in self.ignored:
                continue
            try:
                stat = path.stat()
                mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if self._seen.get(path) == mark:
                    continue
                content = path.read_bytes()
                if path.stat().st_ino != stat.st_ino:
                    continue  # replaced meanwhile: the next round
            except OSError:
                continue
            self._seen[path] = mark
            self.files += 1
            self._check(path, content)
        self._complete()

    def _final(self, folder: Path) -> list[Path]:
        found: list[Path] = []
        try:
            entries = list(folder.iterdir())
        except OSError:
            return found
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _UNFINISHED | _LOGS:
                continue
            if entry.is_dir():
                found += self._final(entry)
            else:
                found.append(entry)
        return found

    def _check(self, path: Path, content: bytes) -> None:
        check = CHECKS.get(path.suffix)
        try:
            assert check is not None, "a file of no known kind"
            check(content)
            if path.name == "manifest.json" and "files" in json.loads(content):
                listed = json.loads(content)["files"]
                self._manifests[path] = {name: entry["size"] for name, entry in listed.items()}
        except (AssertionError, ValueError, struct.error, KeyError, TypeError) as error:
            self.broken.append(f"{path.relative_to(self.folder)}: {error or 'damaged'}")

    def _complete(self) -> None:
        """While a manifest stands, so does all that it lists."""
        for manifest, files in list(self._manifests.items()):
            try:
                before = manifest.stat()
            except OSError:
                del self._manifests[manifest]
                continue
            wrong = [
                name
                for name, size in files.items()
                if (path := manifest.parent / name) not in self.ignored
                and (not path.exists() or path.stat().st_size != size)
            ]
            try:
                after = manifest.stat()
            except OSError:
                continue
            if wrong and (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
                self.broken.append(
                    f"{manifest.relative_to(self.folder)}: stands, but {wrong[0]} is not whole"
                )
                del self._manifests[manifest]

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            time.sleep(POLL_S)
