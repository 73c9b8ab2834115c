"""What an evaluation must know of a checkpoint before anything is started."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.chat import has_template
from subnetworks.checkpoints.manifest import trusts, verify
from subnetworks.core.errors import UserError
from subnetworks.core.files import canonical_json, sha256

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder.

    Attributes:
        path: the folder.
        digest: SHA-256 over the names and digests of its files.
        context: the longest sequence its config allows, in tokens; None if it does not say.
    """

    path: Path
    digest: str
    context: int | None


def inspect(path: Path, chat: bool) -> Checkpoint:
    """Check that a folder can be served and, if `chat`, has a chat template.

    Raises:
        UserError: no config, weights, tokenizer or chat template, or code of its own; a file that
            is not what the manifest says.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder; a checkpoint is a Hugging Face folder")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"{path}: not a folder with *.safetensors; if it is a checkpoint in another format, "
            f"write it as such: subnetworks convert {path} --output DIR"
        )
    config = _json(path / "config.json")
    if "auto_map" in config and not trusts(path):
        raise UserError(
            f"{path}/config.json: auto_map: its own code is not run unless it is trusted: "
            "trust_remote_code: true in its entry of the experiment, or fetch --trust-remote-code"
        )
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"{path}: no tokenizer in it; copy tokenizer.json and tokenizer_config.json"
        )
    if chat and not has_template(path):
        raise UserError(
            f"{path}: no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json); add one or set chat: false"
        )
    text = config.get("text_config", config)
    context = text.get("max_position_embeddings")
    verify(path)
    return Checkpoint(path, _digest(path), context if isinstance(context, int) else None)


def _digest(path: Path) -> str:
    """Digests come from the checkpoint's manifest; without one the files are read."""
    manifest = path / "manifest.json"
    if manifest.is_file():
        files = _json(manifest).get("files") or {}
        digests = {name: entry["sha256"] for name, entry in files.items()}
    else:
        digests = {}
    if not digests:
        kept = (".json", ".jinja", ".model", ".safetensors", ".txt")
        digests = {f.name: sha256(f) for f in sorted(path.iterdir()) if f.suffix in kept}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
