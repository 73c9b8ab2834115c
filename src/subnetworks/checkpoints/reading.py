"""Open a checkpoint, however it is laid out, and give its tensors by name."""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from subnetworks.checkpoints import manifest
from subnetworks.checkpoints.storage import File, Tensor, read_tensors
from subnetworks.errors import UserError
from subnetworks.hub.sources import PICKLES, SECONDARY, safe
from subnetworks.tensors import is_head, is_token_embedding


@dataclass
class Checkpoint:
    """The tensors of a checkpoint, read on demand; a context manager that closes its files.

    Attributes:
        source: as the user named it.
        tensors: every stored tensor by name, in the order of the files.
        excluded: stored tensors that are not part of the model, with the reason.
        config: `config.json`, or empty.
        folder: the folder it was read from, where a manifest may know the files' digests.
        content: the digest of all tensors that the manifest has, if it has one.
    """

    source: str
    tensors: dict[str, Tensor]
    excluded: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    folder: Path | None = None
    content: str | None = None
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

    @cached_property
    def tied(self) -> dict[str, str]:
        """Output heads stored although they are the token embedding: head → embedding.

        As `config.json` says; where it does not say, a head whose bytes are the embedding's is
        taken to be tied.
        """
        heads = [name for name in self.tensors if is_head(name)]
        embeddings = [name for name in self.tensors if is_token_embedding(name)]
        if len(heads) != 1 or len(embeddings) != 1:
            return {}
        head, embedding = self.tensors[heads[0]], self.tensors[embeddings[0]]
        said = self._says_tied()
        if said is None:
            said = _same_content(head, embedding)
        return {head.name: embedding.name} if said else {}

    def _says_tied(self) -> bool | None:
        for section in (self.config, self.config.get("text_config") or {}):
            if isinstance(section.get("tie_word_embeddings"), bool):
                return bool(section["tie_word_embeddings"])
        return None


def _same_content(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    step = 1 << 20
    for start in range(0, first.n, step):
        stop = min(start + step, first.n)
        if first.raw(start, stop).tobytes() != second.raw(start, stop).tobytes():
            return False
    return True


def open(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint.

    Args:
        source: a folder, a `.safetensors` file, or `hub:owner/name@revision` (which is fetched into
            the Hub's cache first). A folder is read as its index says; without an index all its
            files are read, and, where it holds none itself, those of the folders within it. A file
            that is a delta (`subnetworks.checkpoints.deltas`) stands for the checkpoint it makes of
            its base, which is looked for where it lay, or named: `delta:FILE@BASE`.

    Raises:
        UserError: there is no such checkpoint, or it is damaged, incomplete or a pickle.
    """
    text = os.fspath(source)
    if text.startswith("delta:"):
        from subnetworks.checkpoints.deltas import open_delta

        file, _, base = text.removeprefix("delta:").partition("@")
        return open_delta(Path(file), base or None)
    if text.startswith("hub:"):
        from subnetworks.checkpoints.fetching import download
        from subnetworks.hub.sources import parse

        path, _ = download(parse(text))
    else:
        path = Path(text)
    if path.is_dir():
        manifest.check_sizes(path)
        checkpoint = _open_folder(text, path)
        checkpoint.folder, checkpoint.content = path, manifest.read(path).get("content")
        return checkpoint
    if path.suffix in PICKLES:
        raise UserError(f"{path}: a pickle, which can run code; save it as safetensors instead")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: not a .safetensors file, nor a folder of them")
    from subnetworks.checkpoints.deltas import is_delta, open_delta

    if is_delta(path):
        return open_delta(path)
    return _read(text, path.parent, [path], {})


def _open_folder(source: str, folder: Path) -> Checkpoint:
    config = _json(folder / "config.json") if (folder / "config.json").exists() else {}
    single = folder / "model.safetensors"
    if single.exists():
        return _read(source, folder, [single], config)
    if index := _index(folder):
        return _read_indexed(source, folder, index, config)
    here = sorted(p for p in folder.glob("*.safetensors") if p.is_file())
    primary = [p for p in here if not p.name.startswith(SECONDARY)]
    if here:
        if all(p.name.startswith("adapter_model") for p in here):
            raise UserError(
                f"{here[0]}: an adapter, not a whole model; merge it into its base first"
            )
        return _read(source, folder, primary or here, config)
    within = sorted(p for p in folder.rglob("*.safetensors") if p.is_file())
    if not within:
        pickles = sorted(p for p in folder.rglob("*") if p.suffix in PICKLES)
        if pickles:
            raise UserError(
                f"{pickles[0]}: a pickle, which can run code, and no safetensors beside it; "
                "save the model as safetensors instead"
            )
        raise UserError(f"{folder}: no .safetensors files in it")
    parents = {p.parent for p in within}
    if len(parents) == 1:
        checkpoint = _open_folder(source, parents.pop())
        checkpoint.config = checkpoint.config or config
        return checkpoint
    return _read(source, folder, within, config, qualify=(folder / "model_index.json").exists())


def _index(folder: Path) -> Path | None:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    usual = folder / "model.safetensors.index.json"
    if usual in indices:
        return usual
    if len(indices) > 1:
        raise UserError(
            f"{folder}: several indices ({', '.join(p.name for p in indices)}); keep one of them"
        )
    return indices[0] if indices else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object: fetch it again")
    return value


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → shard, as an index says; every shard lies within the index's folder.

    Raises:
        UserError: it is not an index, or names a file elsewhere.
    """
    found = _json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"{index}: no 'weight_map' of names to files: fetch it again")
    for name, file in found.items():
        if not safe(file):
            raise UserError(
                f"{index}: tensor {name!r}: shard {file!r} lies outside the folder; refused"
            )
    return found


def _read_indexed(source: str, folder: Path, index: Path, config: dict[str, Any]) -> Checkpoint:
    where = weight_map(index)
    shards = [folder / file for file in sorted(set(where.values()))]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{shard}: missing, though {index.name} names it: fetch it")
    checkpoint = _read(source, folder, shards, config, only=where)
    for name, file in where.items():
        if name not in checkpoint.tensors:
            raise UserError(f"{folder / file}: no tensor {name!r}, though {index.name} says so")
    return checkpoint


def _read(
    source: str,
    folder: Path,
    files: list[Path],
    config: dict[str, Any],
    only: dict[str, str] | None = None,
    qualify: bool = False,
) -> Checkpoint:
    """Gather the tensors of `files`; with `only`, as that map says; `qualify` names by folder."""
    checkpoint = Checkpoint(source, {}, config=config, files=files)
    try:
        for path in files:
            inner = path.relative_to(folder).parent.as_posix()
            prefix = f"{inner}/" if qualify and inner != "." else ""
            file, tensors, metadata = read_tensors(path, prefix)
            checkpoint._open.append(file)
            if str(metadata.get("format")).startswith("subnetworks-"):
                raise UserError(
                    f"{path}: a {metadata['format'].split('-')[1]}, not a part of a checkpoint; "
                    "name one file, not its folder"
                )
            for name, tensor in tensors.items():
                if only is not None and only.get(name) != path.relative_to(folder).as_posix():
                    checkpoint.excluded.setdefault(name, f"in {path.name} but not in the index")
                elif name in checkpoint.tensors:
                    raise UserError(
                        f"{path}: tensor {name!r} is also in {checkpoint.tensors[name].source}; "
                        "keep one, or name one file or folder"
                    )
                else:
                    checkpoint.tensors[name] = tensor
    except BaseException:
        checkpoint.close()
        raise
    if only is not None:
        for name in checkpoint.tensors:
            checkpoint.excluded.pop(name, None)
    return checkpoint
