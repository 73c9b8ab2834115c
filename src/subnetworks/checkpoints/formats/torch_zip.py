"""Files of `torch.save` (`.bin`, `.pt`, `.pth`, `.ckpt`): a model's state dict, without torch.

The pickle in them is read as data (`pickles`), the weights from where they lie in the archive
(`archives`), in pieces; nothing is imported, called or held in memory. A state dict within a dict,
as trainers save it, is found where it is the only one.
"""

import re
from pathlib import Path

from subnetworks.checkpoints.formats import folders, strangers
from subnetworks.checkpoints.formats.archives import DTYPES, Archive
from subnetworks.checkpoints.formats.contents import UNKNOWN, Contents
from subnetworks.checkpoints.formats.pickles import Ordered, Record, View
from subnetworks.checkpoints.storage import File
from subnetworks.checkpoints.weights import TORCH, TORCH_INDEX
from subnetworks.core.errors import UserError

PLAIN = True
# What trainers call the state dict in what they save, and what lies beside it.
_MODEL = ("model", "model_state_dict", "state_dict", "module", "network")
_BESIDE = re.compile(
    r"(?i)(optim|opt$|.*sched|.*scaler|.*rng|random|(global_)?step|epoch|iter|loss|best)"
)


def recognises(path: Path) -> bool:
    """A file of such a name, an index of them, or a folder whose weights are such files."""
    if path.is_dir():
        found = folders.choice(path)
        return found is not None and found.torch
    return path.name.endswith((*TORCH, TORCH_INDEX))


def read(path: Path) -> Contents:
    """As `contents.Format.read`."""
    return folders.read(path, TORCH_INDEX, read_file)


def read_file(path: Path, prefix: str = "") -> Contents:
    """The state dict in one file.

    Raises:
        UserError: it is damaged, asks for more than tensors, or holds none or several state dicts.
    """
    file = File(path)
    try:
        _require_archive(file)
        archive = Archive(file)
        contents = Contents(files=[path], open=[file])
        for name, value in _state_dict(archive.value(), path, contents).items():
            if not isinstance(name, str):
                raise UserError(
                    f"{path}: an entry named {ascii(name)[:100]}, not by a string: no state dict; "
                    "save model.state_dict()"
                )
            full = prefix + name
            if not isinstance(value, View):
                contents.excluded[full] = f"not a tensor ({_kind(value)})"
            elif value.dtype not in DTYPES:
                contents.excluded[full] = f"{UNKNOWN} (torch.{value.dtype})"
                contents.unread[full] = value.shape
            else:
                contents.tensors[full] = archive.tensor(full, value)
    except BaseException:
        file.close()
        raise
    return contents


def _require_archive(file: File) -> None:
    """Raise `UserError` if a file does not begin as an archive does."""
    first = bytearray(min(file.size, 16))
    file.read_into(first, 0)
    if first[:4] == b"PK\x03\x04":
        return
    if first[:1] == b"\x80":
        raise UserError(
            f"{file.path}: a pickle alone, which can run code, as torch wrote before version 1.6; "
            "load it with torch and save its state dict once more, as safetensors"
        )
    what = strangers.described(file) or "not a file that torch.save wrote: fetch it again"
    raise UserError(f"{file.path}: {what}")


def _state_dict(value: object, path: Path, contents: Contents) -> dict[object, object]:
    """The one dict of tensors in what was saved: itself, or one of its entries."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {_kind(value)}, no state dict; save model.state_dict()")
    inside = {key: part for key, part in value.items() if _holds_tensors(part)}
    own = _holds_tensors(value)
    named = [key for key in inside if key in _MODEL]
    others = {key: part for key, part in value.items() if key not in named}
    if len(named) == 1 and all(
        _BESIDE.match(str(key)) or not (isinstance(part, View) or _holds_tensors(part))
        for key, part in others.items()
    ):
        inside, own = {named[0]: inside[named[0]]}, False
    if own and not inside:
        return value
    names = ", ".join(ascii(key)[:100] for key in inside)
    if own or len(inside) > 1:
        raise UserError(
            f"{path}: more than one that may be the state dict ({names}"
            f"{' and all around it' if own else ''}); save the one that is meant by itself"
        )
    if not inside:
        raise UserError(
            f"{path}: no state dict in it (it holds {', '.join(map(_key, list(value)[:5])) or ''}"
            f"{' …' if len(value) > 5 else ''}); save model.state_dict()"
        )
    ((key, found),) = inside.items()
    contents.notes.append(f"{path}: read {_key(key)}, the one state dict in it")
    assert isinstance(found, dict)
    return found


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(part, View) for part in value.values())


def _key(key: object) -> str:
    return ascii(key)[:100]


def _kind(value: object) -> str:
    if isinstance(value, Record):
        return value.name
    if isinstance(value, View):
        return "a single tensor"
    return "dict" if isinstance(value, Ordered) else type(value).__name__
