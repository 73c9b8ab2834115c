"""Repositories of the Hub that lie on this machine, for one without a network."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.hub.sources import data_files
from subnetworks.core.errors import UserError
from subnetworks.evaluation.tasks import TASKS
from subnetworks.training.data.files import FORMATS
from subnetworks.training.data.sources import HubSettings

Entry = dict[str, Any]
_OF_CHECKPOINT = ("hub", "revision", "folder", "size")
_OF_DATA = ("hub", "revision", "files", "configuration", "split")


def placed(sections: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
    """An experiment's sections, in which what lies here is read from its folder.

    Args:
        sections: as in the file, each name mapped to its settings; checked as they are.
        folders: where a repository (`owner/name`) lies.

    Raises:
        UserError: a folder is not there, or does not have what is asked of it.
    """
    read = {"checkpoints": _checkpoint, "datasets": _dataset, "benchmarks": _benchmark}
    found = dict(sections)
    for section, place in read.items():
        if section in sections:
            found[section] = {
                name: place(entry, folders) for name, entry in sections[section].items()
            }
    if "controls" in sections:
        found["controls"] = placed(sections["controls"], folders)
    return found


def _checkpoint(entry: Entry, folders: Mapping[str, str]) -> Entry:
    if entry.get("hub") not in folders:
        return entry
    folder = _folder(entry["hub"], folders)
    rest = {key: value for key, value in entry.items() if key not in _OF_CHECKPOINT}
    return {"path": str(folder / entry.get("folder", "")), **rest}


def _dataset(entry: Entry, folders: Mapping[str, str]) -> Entry:
    if entry.get("hub") not in folders:
        return entry
    folder = _folder(entry["hub"], folders)
    pattern = data_files(*(entry.get(key) for key in ("files", "configuration", "split")))
    rest = {key: value for key, value in entry.items() if key not in _OF_DATA}
    share = HubSettings.model_fields["max_bad_share"].default
    return {"path": _rows(folder, pattern), "max_bad_share": share, **rest}


def _benchmark(entry: Entry, folders: Mapping[str, str]) -> Entry:
    """A task's rows lie as test.jsonl in the folder, or in one folder within it."""
    task = TASKS.get(entry.get("task", ""))
    if task is None or "revision" not in entry or task.hub not in folders:
        return entry
    folder = _folder(task.hub, folders)
    found = [file.parent for file in (folder / "test.jsonl", *sorted(folder.glob("*/test.jsonl")))]
    there = [one for one in found if (one / "test.jsonl").is_file()]
    if len(there) != 1:
        raise UserError(
            f"local: {task.hub}: {folder} has {len(there) or 'no'} test.jsonl; {task.name} needs "
            "the split as JSON lines, once"
        )
    rest = {key: value for key, value in entry.items() if key != "revision"}
    return {"data": str(there[0]), **rest}


def _folder(repository: str, folders: Mapping[str, str]) -> Path:
    folder = Path(folders[repository])
    if not folder.is_dir():
        raise UserError(f"local: {repository}: {folder}: no such folder")
    return folder


def _rows(folder: Path, pattern: str) -> str:
    """The file, or a pattern for the files, that match a glob over a repository's names."""
    names = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in FORMATS
        and fnmatch.fnmatchcase(file.relative_to(folder).as_posix(), pattern)
    ]
    if not names:
        raise UserError(f"local: {folder}: no file in it matches {pattern!r}")
    if len(names) == 1:
        return str(names[0])
    home, suffix = names[0].parent, names[0].suffix
    if sorted(home.glob(f"*{suffix}")) == names:
        return f"{home}/*{suffix}"
    raise UserError(
        f"local: {folder}: {len(names)} files match {pattern!r}, not all of one folder and format; "
        "give `files` a narrower pattern: "
        f"{', '.join(str(name.relative_to(folder)) for name in names[:3])}, …"
    )
