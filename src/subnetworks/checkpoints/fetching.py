"""Bring a checkpoint here: from the Hub, or by linking to a folder of one's own."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from subnetworks.checkpoints.manifest import NAME, write_manifest
from subnetworks.errors import UserError
from subnetworks.files import sha256

# Weights, configuration and tokenizer; never pickles, which can run code.
PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_SOURCE = re.compile(r"hub:(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


def parse(source: str) -> tuple[str, str]:
    """Repository and revision of `hub:owner/name@revision`; the revision defaults to `main`."""
    found = _SOURCE.fullmatch(source)
    if not found:
        raise UserError(f"{source}: expected hub:owner/name@revision")
    return found["repository"], found["revision"] or "main"


def download(
    source: str,
    cache: str | os.PathLike[str] | None = None,
    patterns: Sequence[str] = PATTERNS,
    repo_type: Literal["model", "dataset"] = "model",
) -> Path:
    """Fetch `hub:owner/name@revision` into the Hub's cache; returns the snapshot's folder.

    Only the files that match one of the globs `patterns` are fetched.

    A finished download costs nothing again, a cut one is resumed. `HF_TOKEN` and `HF_ENDPOINT` are
    obeyed.
    """
    repository, revision = parse(source)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            f"{source}: huggingface_hub is not installed here; fetch it first: "
            f"subnetworks fetch {source} --output FOLDER"
        ) from error
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=os.fspath(cache) if cache is not None else None,
                allow_patterns=list(patterns),
                repo_type=repo_type,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{source}: cannot be fetched ({reason}); check the name, the network, and HF_TOKEN "
            "for a gated repository"
        ) from error


def verify(source: str, files: list[Path]) -> None:
    """Compare each large file with the SHA-256 that the Hub names it by; the client does not.

    A damaged file is removed from the cache, so that fetching again fetches it anew.
    """
    for path in files:
        blob = path.resolve()
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and sha256(blob) != blob.name:
            blob.unlink()
            path.unlink(missing_ok=True)
            raise UserError(
                f"{source}: {path.name} was damaged on its way; removed: fetch it again"
            )


def fetch(
    source: str, output: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None
) -> Path:
    """Make `output` a checkpoint folder of links to `source`; returns its manifest.

    Args:
        source: `hub:owner/name@revision`, or a folder.
        output: the folder to fill; a manifest already there is removed first.
        cache: where downloads lie (default: the Hub's own cache).

    Raises:
        UserError: no such repository, revision or folder, or no safetensors in it.
    """
    folder = Path(output)
    (folder / NAME).unlink(missing_ok=True)
    facts = {"source": source}
    if source.startswith("hub:"):
        kind = "hub"
        origin = download(source, cache)
        facts["revision"] = origin.name
    else:
        kind = "path"
        origin = Path(source)
        if not origin.is_dir():
            raise UserError(f"{origin}: no such folder")
    found = [
        path
        for path in sorted(origin.rglob("*"))
        if path.is_file() and path.name != NAME and any(path.match(glob) for glob in PATTERNS)
    ]
    if not any(path.suffix == ".safetensors" for path in found):
        raise UserError(f"{source}: no .safetensors files in it; pickles are not taken")
    if kind == "hub":
        verify(source, found)
    for path in found:
        link = folder / path.relative_to(origin)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return write_manifest(folder, name=folder.name, kind=kind, **facts)
