"""Answers kept as they come, so that an evaluation that was killed asks no question twice."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subnetworks.core.files import canonical_json


class Answers:
    """An append-only file of answered requests: one JSON line each, its key and its answer.

    A line cut short by a kill is dropped on opening. The file belongs to one fingerprint
    (checkpoint, settings, rows); with another it starts anew.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.found = 0
        self._known: dict[str, Any] = {}
        if not self._load(fingerprint):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(canonical_json({"fingerprint": fingerprint}) + "\n", encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def _load(self, fingerprint: str) -> bool:
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
            if json.loads(lines[0]) != {"fingerprint": fingerprint}:
                return False
        except (OSError, ValueError, IndexError):
            return False
        whole = len(lines[0])
        for line in lines[1:]:
            try:
                key, answer = json.loads(line) if line.endswith(b"\n") else (None, None)
            except ValueError:
                break
            if key is None:
                break
            self._known[key] = answer
            whole += len(line)
        with open(self.path, "rb+") as handle:
            handle.truncate(whole)
        self.found = len(self._known)
        return True

    @staticmethod
    def key(kind: str, arguments: Sequence[Any]) -> str:
        """A digest of a request: what is asked of the model, by which method."""
        return hashlib.sha256(canonical_json([kind, list(arguments)]).encode()).hexdigest()

    def get(self, key: str) -> Any:
        """The answer, or None."""
        return self._known.get(key)

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer; it is on disk (not necessarily synced) when this returns."""
        self._known[key] = answer
        self._file.write(canonical_json([key, answer]) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file: the answers are now in the results."""
        self.close()
        self.path.unlink(missing_ok=True)
