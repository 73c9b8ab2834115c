"""What DeepSpeed leaves behind: read where one file has the whole model, else gathered first.

`mp_rank_00_model_states.pt` has it under stages 1 and 2 of ZeRO, whose optimiser's shards lie
beside it; under stage 3 every process has its own part, and only the optimiser's files have them.
"""

import re
from pathlib import Path

from subnetworks.checkpoints.formats import torch_zip
from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.weights import SAFE
from subnetworks.core.errors import UserError

_PARTS = re.compile(r".*zero_pp_rank_\d+_mp_rank_\d+_(?:optim|model)_states\.pt")
_WHOLE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_SCRIPT = "zero_to_fp32.py"


def recognises(path: Path) -> bool:
    """Whether a folder has such files and no whole model, or it is one of the processes' files."""
    if path.is_file():
        return bool(_PARTS.fullmatch(path.name))
    if not path.is_dir():
        return False
    names = [found.name for found in path.iterdir()]
    # What has been gathered lies beside the parts.
    if any(name.endswith(SAFE) or name.startswith("pytorch_model") for name in names):
        return False
    return _SCRIPT in names or any(_PARTS.fullmatch(n) or _WHOLE.fullmatch(n) for n in names)


def read(path: Path) -> Contents:
    """As `contents.Format.read`.

    Raises:
        UserError: spread over processes; the error names DeepSpeed's tool that gathers them.
    """
    folder = path if path.is_dir() else path.parent
    states = _states(folder)
    whole = sorted(p for p in states.iterdir() if _WHOLE.fullmatch(p.name))
    parts = any("model_states" in p.name and _PARTS.fullmatch(p.name) for p in states.iterdir())
    if path.is_dir() and len(whole) == 1 and not parts:
        contents = torch_zip.read_file(whole[0])
        contents.home = folder
        return contents
    root = folder if (folder / _SCRIPT).exists() else states.parent
    raise UserError(
        f"{path}: shards of DeepSpeed's ZeRO (or of its model parallelism); gather them first (in "
        f"{root}: python {_SCRIPT} . OUT) and name OUT"
    )


def _states(folder: Path) -> Path:
    """The folder of the newest step, as DeepSpeed's file `latest` names it, or this one."""
    latest = folder / "latest"
    if latest.is_file():
        step = folder / latest.read_text(encoding="utf-8", errors="replace").strip()[:200]
        if step.parent == folder and step.is_dir():
            return step
    return folder
