"""Open a checkpoint, however it is laid out, and give its tensors by name."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.checkpoints import formats, manifest
from subnetworks.checkpoints.formats import folders, strangers
from subnetworks.checkpoints.storage import File, Tensor
from subnetworks.checkpoints.weights import PICKLES, SAFE
from subnetworks.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from subnetworks.checkpoints.companions import Companion


@dataclass
class Checkpoint:
    """The tensors of a checkpoint, read on demand; a context manager that closes its files.

    Attributes:
        source: as the user named it.
        tensors: every stored tensor by name, in the order of the files.
        excluded: stored tensors that are not part of the model, with the reason.
        unread: shapes of those of them that are of a dtype that is not known.
        config: `config.json`, or empty.
        home: the folder with its configuration and tokenizer, if there are any.
        folder: the folder it was read from, where a manifest may know the files' digests.
        content: the digest of all tensors that the manifest has, if it has one.
        beside: the files beside the weights, where a delta says which (see `companions`).
        notes: what a user should know of how it was read, a line each.
    """

    source: str
    tensors: dict[str, Tensor]
    excluded: dict[str, str] = field(default_factory=dict)
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    home: Path | None = None
    folder: Path | None = None
    content: str | None = None
    beside: "Mapping[str, Companion] | None" = None
    notes: list[str] = field(default_factory=list)
    _open: list[File] = field(default_factory=list, repr=False)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in self._open:
            file.close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def confirm(self, digest: str) -> None:
        """Raise `UserError` if the manifest has another digest of all tensors than `digest`."""
        if self.content in (None, digest):
            return
        self.verify()  # names the file
        raise UserError(
            f"{self.source}: its tensors have the digest {digest}, by its manifest {self.content}: "
            "remove its folder and run again"
        )

    def verify(self) -> None:
        """Compare every file's content with the manifest, if there is one; reads everything once.

        Raises:
            UserError: a file is damaged.
        """
        if self.folder is not None:
            manifest.verify(self.folder)


def open(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: a folder, a file of safetensors or of torch, the index of such files, or
            `hub:owner/name@revision`, maybe with `:folder` (which is fetched into the Hub's cache
            first). Which files of a folder are read: `subnetworks.checkpoints.weights`. A file that
            is a delta (`subnetworks.checkpoints.deltas`) stands for the checkpoint it makes of its
            base, which is looked for where it lay, or named: `delta:FILE@BASE`. A LoRA adapter
            stands, as `adapter:PATH@BASE`, for its base with it merged in; it may be one of the
            Hub: `adapter:hub:owner/name@revision@BASE`.

    Raises:
        UserError: there is no such checkpoint, or it is damaged or incomplete, or asks for more
            than tensors.
    """
    text = os.fspath(source)
    if text.startswith("delta:"):
        from subnetworks.checkpoints.deltas import open_delta

        named, base = split_base(text.removeprefix("delta:"))
        return open_delta(Path(named), base)
    if text.startswith("adapter:"):
        from subnetworks.checkpoints.adapters import open_adapter

        named, base = split_base(text.removeprefix("adapter:"))
        return open_adapter(_local(named), base, text)
    path = _local(text)
    if path.is_dir():
        manifest.check_sizes(path)
        checkpoint = _open(text, path)
        checkpoint.folder, checkpoint.content = path, manifest.read(path).get("content")
        return checkpoint
    if not path.exists():
        raise UserError(_absent(path))
    if path.suffix == SAFE:
        from subnetworks.checkpoints.deltas import is_delta, open_delta

        if is_delta(path):
            return open_delta(path)
    return _open(text, path)


def places(*sources: str | os.PathLike[str]) -> list[Path]:
    """The files and folders here that opening these checkpoints reads, the bases of deltas too."""
    found: list[Path] = []
    for source in sources:
        text = os.fspath(source)
        kind, _, rest = text.partition(":")
        if kind == "hub":
            continue
        named, base = split_base(rest) if kind in ("delta", "adapter") else (text, None)
        found += places(base) if base else []
        if named.startswith("hub:"):
            continue
        file = Path(named)
        found.append(file)
        if file.suffix == SAFE and file.is_file():
            from subnetworks.checkpoints.deltas import base_of

            with suppress(UserError, LookupError):  # no delta, or one that `open` will refuse
                found += places(base_of(file))
    return found


def _local(source: str) -> Path:
    """Where a source lies here; what is of the Hub is fetched into its cache first."""
    if not source.startswith("hub:"):
        return Path(source)
    from subnetworks.checkpoints.fetching import download
    from subnetworks.checkpoints.hub.sources import parse

    return download(parse(source))[0]


def split_base(text: str) -> tuple[str, str | None]:
    """What is named and its base in `PATH@BASE` or `hub:owner/name@revision@BASE`.

    The base may be missing. Where a path has an @ in its name, it is the longest beginning that is
    there.
    """
    ends = [k for k, letter in enumerate(text) if letter == "@"]
    if text.startswith("hub:"):
        end = ends[1] if len(ends) > 1 else len(text)
    else:
        there = (k for k in [len(text), *reversed(ends)] if Path(text[:k]).exists())
        end = next(there, ends[0] if ends else len(text))
    return text[:end], text[end + 1 :] or None


def _open(source: str, path: Path) -> Checkpoint:
    """The checkpoint in a file or folder here, of whatever format."""
    found = formats.of(path)
    if found is None:
        raise UserError(_unknown(path))
    contents = found.read(path)
    here = path if path.is_dir() else path.parent
    home = contents.home if contents.home and (contents.home / _CONFIG).exists() else here
    try:
        config = folders.config(home)
    except BaseException:
        contents.close()
        raise
    return Checkpoint(
        source,
        contents.tensors,
        contents.excluded,
        contents.unread,
        config,
        contents.files,
        home=home,
        notes=contents.notes,
        _open=contents.open,
    )


def _unknown(path: Path) -> str:
    """What a file or folder of no format is, in one line with the remedy."""
    if path.is_dir():
        return strangers.found_in(path) or (
            f"{path}: no .safetensors files in it, nor a model of torch; name a folder with weights"
        )
    if path.suffix in PICKLES:
        return f"{path}: a pickle, which can run code; save it as safetensors instead"
    file = File(path)
    try:
        what = strangers.described(file)
    finally:
        file.close()
    return f"{path}: {what or 'not a .safetensors file, one of torch, nor a folder of them'}"


def _absent(path: Path) -> str:
    """The error for a path where nothing is."""
    if path.is_symlink():
        return f"{path}: a link to {os.readlink(path)}, which is not there: fetch it again"
    text = str(path)
    if _REPOSITORY.fullmatch(text) and not path.parent.exists():
        return f"{path}: no such file or folder; a repository of the Hub is named hub:{text}"
    return f"{path}: no such file or folder"


_CONFIG = "config.json"
# `owner/name`, maybe with a revision.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?(:[\w./-]+)?", re.ASCII)
