"""An adapter and its base, `adapter:PATH@BASE`, as the checkpoint that they make together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.companions import tokenizer, with_config
from subnetworks.checkpoints.formats import adapter, safetensors, torch_zip
from subnetworks.checkpoints.reading import Checkpoint
from subnetworks.checkpoints.reading import open as open_checkpoint
from subnetworks.checkpoints.storage import Tensor, same_content
from subnetworks.checkpoints.tensors import is_head, is_token_embedding
from subnetworks.core.errors import UserError

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Where a tied head is not stored, its name in nearly all models.
_HEAD = "lm_head.weight"


def open_adapter(path: Path, base: str | None, source: str) -> Checkpoint:
    """Open `adapter:PATH@BASE`.

    Its tokenizer and chat template replace the base's, and `vocab_size` is that of the embedding.

    Args:
        path: a folder as peft saves it, or the file in it.
        base: whatever `subnetworks.checkpoints.open` takes, another adapter too.
        source: as the user named both.

    Raises:
        UserError: no base is named; the adapter is not LoRA, has what is not understood, or does
            not fit the base.
    """
    file = _file(path)
    config = file.parent / adapter.CONFIG
    if not config.is_file():
        raise UserError(f"{config}: missing, without which its weights mean nothing; fetch it")
    chosen = adapter.settings(config)
    if not base:
        said = chosen.get("base_model_name_or_path")
        raise UserError(
            f"{source}: no base named; say which: {source}@BASE"
            + (f" (it was trained on {said})" if isinstance(said, str) else "")
        )
    contents = (torch_zip if file.suffix == ".bin" else safetensors).read(file)
    try:
        under = open_checkpoint(base)
    except BaseException:
        contents.close()
        raise
    under._open += contents.open
    try:
        tensors, tied = adapter.merged(
            file, contents.tensors, chosen, under.tensors, under.config, _tie(under), base
        )
    except BaseException:
        under.close()
        raise
    settings = _settings(under, tensors, tied)
    beside = with_config(under, settings)
    if beside is not None:
        beside |= tokenizer(file.parent)
    return replace(
        under,
        source=source,
        tensors=tensors,
        config=settings,
        files=[*under.files, file, config],
        beside=beside,
        folder=None,
        content=None,
    )


def _settings(base: Checkpoint, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Any]:
    """The base's configuration, adapted to a head and an embedding that were trained whole."""
    config = base.config if tied else {**base.config, "tie_word_embeddings": False}
    for name, tensor in tensors.items():
        if is_token_embedding(name) and name in base.tensors:
            if tensor.shape == base[name].shape:
                continue
            text = config.get("text_config")
            if isinstance(text, Mapping):
                config = {**config, "text_config": {**text, "vocab_size": tensor.shape[0]}}
            if "vocab_size" in config or text is None:
                config = {**config, "vocab_size": tensor.shape[0]}
    return config


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    within = sorted(found.parent for name in _FILES for found in path.rglob(name))
    if within:
        raise UserError(f"{path}: no {_FILES[0]} in it; name the folder that has it: {within[0]}")
    raise UserError(f"{path}: no {_FILES[0]} in it")


def _tie(base: Checkpoint) -> tuple[str, str] | None:
    """Output head (stored or not) and token embedding of the base, where they are tied.

    A stored head is tied if it has the embedding's bits, one that is not stored unless the
    configuration says otherwise.
    """
    heads = [name for name in base.tensors if is_head(name)]
    embeddings = [name for name in base.tensors if is_token_embedding(name)]
    if len(embeddings) != 1 or len(heads) > 1:
        return None
    sections = (base.config, base.config.get("text_config") or {})
    if any(section.get("tie_word_embeddings") is False for section in sections):
        return None
    if not heads:
        return _HEAD, embeddings[0]
    if same_content(base[heads[0]], base[embeddings[0]]):
        return heads[0], embeddings[0]
    return None
