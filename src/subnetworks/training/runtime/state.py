"""A run's unfinished state: what may be resumed from, and what may not."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from subnetworks.core.files import canonical_json, remove_own, sha256, write_text

_TRACKER = "latest_checkpointed_iteration.txt"
_FINGERPRINT = "run.json"
# What trainers write into a run's state; whatever else lies there is the user's.
_OWN = re.compile(
    r"(?:latest_checkpointed_iteration\.txt(?:\.tmp)?|run\.json|steps-\d+-\d+\.jsonl|preference\.json"
    r"|reference\w*\.npy|\.[^/]+\.part|hydra/.+|global_step_\d+/(?:\w+/)?(?:huggingface/.+|data\w*\.pt"
    r"|(?:model|optim|extra_state)_world_size_\d+_rank_\d+\.pt|(?:fsdp_config|lora_train_meta)\.json))"
)


def prepare(state: Path, fingerprint: Mapping[str, Any]) -> None:
    """Make `state` a folder of the run that `fingerprint` describes: what another run (with other
    settings, init, data or mask) has left there is removed."""
    text = canonical_json(fingerprint)
    mark = state / _FINGERPRINT
    if not mark.exists() or mark.read_text(encoding="utf-8") != text:
        clear(state)
        state.mkdir(parents=True, exist_ok=True)
        write_text(mark, text)


def ours(state: Path) -> bool:
    """Whether a folder is a run's unfinished state, by the file that says of which run."""
    try:
        found = json.loads((state / _FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"settings", "init", "data"} <= found.keys()


def clear(state: Path) -> None:
    """Remove a run's state, and nothing else that lies in its folder.

    What says whose it is goes last, so that a kill leaves it known.
    """
    remove_own(state, lambda name: _is_own(name) and name != _FINGERPRINT)
    (state / _FINGERPRINT).unlink(missing_ok=True)
    with suppress(OSError):  # something of the user's is in it, or there is none
        state.rmdir()


def _is_own(name: str) -> bool:
    return bool(_OWN.fullmatch(name))


def _is_of(step: str) -> Callable[[str], bool]:
    """Whether a file belongs to a saved step."""
    return lambda name: name.startswith(f"{step}/") and _is_own(name)


def resume_from(state: Path, logged: int) -> int:
    """The last step that was saved whole and logged, as all before it; 0 to start anew.

    Every saved step behind it is removed. verl writes its files in place, and a killed run may
    leave some of them torn; it logs on-policy steps once they are saved, and may be killed between.

    Args:
        state: a prepared folder.
        logged: the last step up to which every one is in the log.
    """
    steps = saved_steps(state)
    usable = (step for step in sorted(steps, reverse=True) if step <= logged and whole(steps[step]))
    resume = next(usable, 0)
    for step, folder in steps.items():
        if step > resume:
            remove_own(state, _is_of(folder.name))
    tracker = state / _TRACKER
    if resume:
        write_text(tracker, str(resume))
    else:
        tracker.unlink(missing_ok=True)
    return resume


def saved_steps(state: Path) -> dict[int, Path]:
    """The folders of saved steps, whole or torn, by step."""
    folders = state.glob("global_step_*")
    return {int(path.name.rpartition("_")[2]): path for path in folders if path.is_dir()}


def shards(folder: Path) -> Path:
    """Where the weights of a saved step lie: beside the data's state, or one folder below."""
    return folder / "actor" if (folder / "actor").is_dir() else folder


def whole(folder: Path) -> bool:
    """Whether a saved step has all that resuming needs, of every model it was saved with (the
    policy, and a critic or reward model beside it).

    torch writes zip archives, whose directory comes last: one that was cut off is not a zip file.
    """
    parts = shards(folder)
    data = list(folder.glob("data*.pt"))
    # A folder of several models has the data's state, which is written last.
    models = [parts] if parts == folder else [path for path in folder.iterdir() if path.is_dir()]
    if parts != folder and not data:
        return False
    return all(map(zipfile.is_zipfile, data)) and all(map(_whole_model, models))


def _whole_model(folder: Path) -> bool:
    ranks = {
        kind: sorted(folder.glob(f"{kind}_world_size_*_rank_*.pt"))
        for kind in ("model", "optim", "extra_state")
    }
    files = [file for some in ranks.values() for file in some]
    sizes = {file.name.split("_rank_")[0].rpartition("_")[2] for file in files}
    if len(sizes) != 1:
        return False
    size = int(sizes.pop())
    complete = all(len(some) == size for some in ranks.values())
    return complete and all(map(zipfile.is_zipfile, files))


def digest(folder: Path) -> str:
    """What a checkpoint or data set is: its manifest's digest, or those of its large files."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        return sha256(manifest)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.parquet")])
    return canonical_json({file.name: sha256(file) for file in files})
