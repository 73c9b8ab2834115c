"""What lies beside a checkpoint's weights: configuration, tokenizer, chat templates, a licence.

Of these a delta carries what its base does not have: the text and the tokenizer's models that
transformers reads, no code and nothing that is as large as weights.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from subnetworks.checkpoints.hub.sources import TOKENIZER, safe
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.weights import PICKLES, SAFE
from subnetworks.core.errors import UserError

# More chat templates, as transformers saves them beside the first.
TEMPLATES = "additional_chat_templates"
# The largest file that a delta carries, in bytes: of the largest tokenizers twice.
LARGEST = 1 << 26
_CARRIED = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".bpe", ".vocab")
_WEIGHTS = (SAFE, *PICKLES, ".gguf", ".h5", ".msgpack", ".npz", ".onnx")
# Written anew with every folder.
_OWN = ("manifest.json", ".meta.json", ".index.json")


@dataclass(frozen=True)
class Companion:
    """A file beside the weights.

    Attributes:
        name: relative to the folder, parts joined by `/`.
        size: in bytes.
        reader: gives the content.
    """

    name: str
    size: int
    reader: Callable[[], bytes]

    @cached_property
    def content(self) -> bytes:
        """The content."""
        return self.reader()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return sha256(self.content).hexdigest()

    @property
    def carried(self) -> bool:
        """Whether a delta may carry it."""
        return self.name.endswith(_CARRIED) and self.size <= LARGEST

    def verified(self, digest: str, where: str) -> "Companion":
        """The same, that is refused when it is read unless it has this digest."""

        def read() -> bytes:
            content = self.reader()
            if sha256(content).hexdigest() != digest:
                raise UserError(where)
            return content

        return replace(self, reader=read)


def allowed(name: str) -> bool:
    """Whether a file of this name may lie beside weights; what says so may be hostile."""
    folder, _, own = name.rpartition("/")
    return (
        safe(name)
        and folder in ("", TEMPLATES)
        and not own.endswith((*_WEIGHTS, *_OWN))
        and len(own.encode()) <= 255
        and own != TEMPLATES
    )


def tokenizer(folder: Path) -> dict[str, Companion]:
    """The tokenizer in a folder, with its chat templates."""
    return {
        name: file
        for name, file in _small(folder).items()
        if any(fnmatch(name, glob) for glob in (*TOKENIZER, f"{TEMPLATES}/*"))
    }


def companions(checkpoint: Checkpoint) -> dict[str, Companion] | None:
    """What lies beside a checkpoint's weights, by name; None of weights alone.

    A folder's are its small files; those of a delta what it and its base say.
    """
    if checkpoint.beside is not None:
        return dict(checkpoint.beside)
    folder = checkpoint.home
    return _small(folder) if folder and (folder / "config.json").exists() else None


def _small(folder: Path) -> dict[str, Companion]:
    paths = [*folder.iterdir(), *(folder / TEMPLATES).glob("*.jinja")]
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {
        name: Companion(name, path.stat().st_size, partial(Path.read_bytes, path))
        for name, path in sorted(names.items())
        if allowed(name)
    }


def with_config(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Companion] | None:
    """What lies beside a checkpoint's weights, its configuration replaced by another."""
    found = companions(checkpoint)
    if found is None or config == checkpoint.config:
        return found
    text = (json.dumps(config, indent=2) + "\n").encode()
    return {**found, "config.json": Companion("config.json", len(text), lambda: text)}


def write(folder: Path, files: Mapping[str, Companion]) -> None:
    """Write companions into a new folder."""
    for name, file in files.items():
        path = folder / PurePosixPath(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.content)
