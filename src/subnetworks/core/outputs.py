"""Where results may go: nothing of the user's is overwritten, and nothing of it is removed.

Every verb that writes calls `claim` before it does anything else. The rule:

- No output is an input, contains one or lies inside one, whatever links lead there; nor are two
  outputs of one call the same. What counts is the file or folder itself (device and inode), so that
  a hard link is the file that it links to.
- What exists is replaced only if a record says that this program wrote it for this purpose, and if
  it still is what was written. Of a file that is the `.meta.json` beside it (`written_for`, and its
  `sha256`, or of the large ones `content`, a faster digest, and `stat`, by which most are known
  without being read again); of a folder `manifest.json` and
  `manifest.json.meta.json`, which list every file and link in it. A folder that holds anything else
  stays as it is. Of a folder without its manifest, which says that it is complete, any verb that
  makes folders may make it anew: so a workflow takes away what is to be made again.
- A link is never an output, except one to a folder, which counts as that folder.
- Working files have a record, too: the name `.NAME.HOST-PROCESS.part` of an unfinished file; in the
  folder of a run `state`, whose `run.json` says whose it is, and then `train.log` and the deltas in
  `trajectory`; in that of an evaluation `server.log`, `.tasks` and `.BENCHMARK.answers.jsonl`.

A record is written before what it is of takes its name (`signing`, `folder`). So a command that is
killed at any moment may be run again.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import subnetworks
from subnetworks.core import files
from subnetworks.core.errors import UserError

Place = str | os.PathLike[str]
RECORD = ".meta.json"
_MANIFEST = "manifest.json"
# The verbs behind a manifest's kind, for a folder whose record is gone.
_KINDS = {
    "make": ("make",),
    "hub": ("fetch", "fetch-data"),
    "path": ("fetch", "fetch-data"),
    "run": ("train",),
    "delta": ("apply",),
    "convert": ("convert",),
    "sample": ("sample",),
    "mix": ("mix",),
}
_UNFINISHED = re.compile(r"\.manifest\.json(\.meta\.json)?\.[^/]+-\d+\.part")
_PIECE = 1 << 22
# Of large files, by device, inode, size and time of writing.
_contents: dict[tuple[int, int, int, int], str] = {}
_ELSEWHERE = "move it away, or name another"


@dataclass(frozen=True)
class Output:
    """A file to be written: where, for what purpose (`measure --mask`), and its record."""

    path: Path
    purpose: str
    record: Path

    @classmethod
    def of(cls, path: Place, purpose: str = "") -> "Output":
        """An output with a record of its own."""
        return cls(Path(path), purpose, Path(f"{os.fspath(path)}{RECORD}"))


def claim(
    verb: str,
    *,
    reads: Iterable[Place | None] = (),
    files: Mapping[str, Place | None] | Iterable[tuple[str, Place | None]] = (),
    folders: Iterable[Place] = (),
    beside: Iterable[Place | None] = (),
    together: Path | None = None,
) -> list[Output]:
    """Check that a call may write what it is asked to; nothing is written.

    Args:
        verb: the command.
        reads: files and folders that the call reads.
        files: the files that it writes, by the option that names each; None is not written, nor is
            `-` (standard output).
        folders: the folders that it replaces as a whole.
        beside: what it adds to without replacing it, a cache or a lock.
        together: the one of `files` whose record is that of all.

    Returns:
        the files, as `subnetworks.core.provenance.recorded` takes them.

    Raises:
        UserError: in one line, what is in the way and what to do.
    """
    pairs = files.items() if isinstance(files, Mapping) else files
    outputs = []
    for option, path in pairs:
        if path is not None and os.fspath(path) != "-":
            output = Output.of(path, f"{verb} {option}".strip())
            if together is not None:
                output = Output(output.path, output.purpose, Output.of(together).record)
            outputs.append(output)
    places = [Path(folder) for folder in folders]
    others = [Path(path) for path in beside if path is not None]
    records = dict.fromkeys(output.record for output in outputs)
    written = [
        *(_Spot(output.path, "file") for output in outputs),
        *(_Spot(record, "record") for record in records),
        *(_Spot(place, "folder") for place in places),
        *(_Spot(place, "beside") for place in others),
    ]
    read = [_Spot(Path(path), "input") for path in reads if path is not None]
    for spot in written:
        for source in read:
            _apart(spot, source)
    for index, spot in enumerate(written):
        for other in written[:index]:
            _apart(spot, other)
    _not_read(written, read)
    for record in records:
        _own_record(record)
    for output in outputs:
        check_file(output)
    for place in places:
        check_folder(place, verb)
    return outputs


class _Spot:
    """A path with the identities of what it is and of what it lies in."""

    def __init__(self, path: Path, role: str) -> None:
        self.path = path
        self.role = role
        # The last link is not followed: what is at an output's name is what would go.
        keep = role in ("file", "record")
        real = Path(os.path.realpath(path.parent)) / path.name if keep else path.resolve()
        self.real = real
        self.identity = _identity(real, follow=not keep)
        self.above = {found for parent in real.parents if (found := _identity(parent))}

    def same(self, other: "_Spot") -> bool:
        known = self.identity is not None and self.identity == other.identity
        return known or self.real == other.real

    def inside(self, other: "_Spot") -> bool:
        known = other.identity is not None and other.identity in self.above
        return known or other.real in self.real.parents


def _identity(path: Path, follow: bool = True) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=follow)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _apart(spot: _Spot, other: _Spot) -> None:
    """Refuse an output that meets an input or another output."""
    what = "is read" if other.role == "input" else "is written by the same call"
    if spot.same(other):
        raise UserError(f"{spot.path}: {other.path} {what}, too; name another output")
    if spot.inside(other) and other.role in ("input", "folder", "beside"):
        raise UserError(f"{spot.path}: lies inside {other.path}, which {what}; write elsewhere")
    if other.inside(spot) and spot.role in ("folder", "beside"):
        raise UserError(f"{spot.path}: contains {other.path}, which {what}; name another folder")


def _not_read(written: list[_Spot], read: list[_Spot]) -> None:
    """Refuse an output that is a file within an input folder, by another name."""
    present: dict[tuple[int, int] | None, _Spot] = {
        spot.identity: spot for spot in written if spot.identity and spot.role in ("file", "record")
    }
    if not present:
        return
    for source in read:
        if not source.real.is_dir():
            continue
        for folder, _, names in os.walk(source.real):
            for name in names:
                if (spot := present.get(_identity(Path(folder, name)))) is not None:
                    raise UserError(
                        f"{spot.path}: is {Path(folder, name)}, which is read; name another output"
                    )


def _parents(path: Path) -> None:
    for parent in path.parents:
        if os.path.lexists(parent):
            if not parent.is_dir():
                raise UserError(f"{path}: {parent} is not a folder; name another output")
            return


def _plain(path: Path) -> bool:
    """Whether there is a plain file at a path; False if nothing is.

    Raises:
        UserError: something else is.
    """
    _parents(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(mode):
        raise UserError(f"{path}: a link to {os.readlink(path)}; name the file itself, or another")
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder, where a file is to be written; name a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a device or the like, not a file; name a file")
    return True


def read_record(path: Path) -> dict[str, Any]:
    """A record of this program's; empty if there is none at `path`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and "subnetworks" in value else {}


def _own_record(path: Path) -> None:
    if _plain(path) and not read_record(path):
        raise UserError(
            f"{path}: the record of a result would be written here, but this file is none; "
            f"{_ELSEWHERE} output"
        )


def _marks_of(path: Path, name: str) -> dict[str, str]:
    """By what a file is known again: its SHA-256; of a large one size and time of writing, too.

    `name` says which it is: an unfinished file has another one.
    """
    if not name.endswith(".safetensors"):
        return {"sha256": files.sha256(path)}
    found = path.stat()
    key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    if key not in _contents:
        _contents[key] = _content(path)
    return {"stat": _stat(path), "content": _contents[key]}


def _stat(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _content(path: Path) -> str:
    """A digest of a large file as it is now, faster than SHA-256; no protection from forgery."""
    import numpy as np

    from subnetworks.core import kernels

    total = hashlib.blake2b(digest_size=16)
    words = np.empty(_PIECE // 8, np.uint64)
    with open(path, "rb") as file:
        while size := file.readinto(words.data):
            words.view(np.uint8)[size : -(-size // 8) * 8] = 0
            piece = kernels.fingerprint(words[: -(-size // 8)])
            total.update(b"%d %d," % (size, piece))
    return total.hexdigest()


def _is_known(path: Path, name: str, known: list[str]) -> bool:
    """Whether a file is one of those that have these marks; read only where its time says not."""
    if name.endswith(".safetensors") and _stat(path) in known:
        return True
    return bool(set(_marks_of(path, name).values()) & set(known))


def marks(record: Mapping[str, Any], output: Output) -> list[str]:
    """All marks by which a record knows an output."""
    name = output.path.name
    try:
        found = list(record.get("pending", {}).get(name, []))
        if name in record.get("files", {}):
            found.append(record["files"][name])
    except (AttributeError, TypeError):
        return []
    if output.record.name == f"{name}{RECORD}":
        found += [record[key] for key in ("sha256", "stat", "content") if key in record]
    return found


def purpose_of(record: Mapping[str, Any], name: str) -> str:
    """What a record says that a file was written for; of an older record, the verb."""
    command = record.get("command")
    verb = command[1] if isinstance(command, list) and len(command) > 1 else ""
    purposes = record.get("written_for")
    return str(purposes.get(name, "") if isinstance(purposes, dict) else verb)


def check_file(output: Output) -> None:
    """Refuse to replace a file unless its record says that it was written for this.

    Raises:
        UserError: what is there, and what to do.
    """
    path = output.path
    if not _plain(path):
        return
    record = read_record(output.record)
    verb, known = output.purpose.split(" ")[0], purpose_of(record, path.name)
    if not record or not marks(record, output):
        raise UserError(
            f"{path}: exists, and no record beside it says that `{verb}` wrote it; "
            f"{_ELSEWHERE} file"
        )
    if known not in (output.purpose, verb):
        raise UserError(
            f"{path}: was written by `{known}`, not by `{output.purpose}`; {_ELSEWHERE} file"
        )
    if not _is_known(path, path.name, marks(record, output)):
        raise UserError(
            f"{path}: not as it was written (by {output.record.name}): edited or damaged; "
            f"{_ELSEWHERE} file"
        )


@contextmanager
def signing(outputs: Iterable[Output]) -> Iterator[None]:
    """Within the block a file of `outputs` is noted in its record just before it takes its name."""
    signed = list(outputs)
    for output in signed:
        files.on_replacing(output.path, partial(_sign, output))
    try:
        yield
    finally:
        for output in signed:
            files.on_replacing(output.path, None)


def _sign(output: Output, temporary: Path) -> None:
    old = read_record(output.record)
    name = output.path.name
    accepted = marks(old, output) if output.path.exists() else []
    accepted = [*accepted, *_marks_of(temporary, name).values()]
    stub: dict[str, Any] = {"subnetworks": subnetworks.__version__}
    stub |= {key: old[key] for key in ("files", "links") if key in old}
    stub["written_for"] = {**(old.get("written_for") or {}), name: output.purpose}
    stub["pending"] = {**(old.get("pending") or {}), name: accepted}
    files.write_json(output.record, stub)


def begin(output: Output) -> None:
    """Note in an output's record, if there is none, that it is being made."""
    if not read_record(output.record):
        purpose = {output.path.name: output.purpose}
        stub = {"subnetworks": subnetworks.__version__, "written_for": purpose}
        files.write_json(output.record, stub)


def finished(outputs: Iterable[Output]) -> dict[Path, dict[str, Any]]:
    """What the record of finished outputs says by which they are known again."""
    found: dict[Path, dict[str, Any]] = {}
    for output in outputs:
        facts = found.setdefault(output.record, {})
        if not output.path.exists():
            continue
        name = output.path.name
        if output.record.name == f"{name}{RECORD}":
            facts |= _marks_of(output.path, name)
            if name == _MANIFEST:
                old, kept = read_record(output.record), ("files", "links", "written_for")
                facts |= {key: old[key] for key in kept if key in old}
        else:
            facts.setdefault("files", {})[name] = files.sha256(output.path)
        if output.purpose:
            facts.setdefault("written_for", {})[name] = output.purpose
    return found


@contextmanager
def folder(path: Place, verb: str) -> Iterator[Path]:
    """Like `files.atomic_folder`; what was there is replaced only if it is this program's.

    The block writes the folder's manifest; its record is written here.

    Raises:
        UserError: what is there, and what to do.
    """
    check_folder(path, verb)
    final = Path(path).resolve()
    with files.atomic_folder(final, lambda old: check_folder(old, verb, final)) as temporary:
        yield temporary
        _list(temporary, verb)


def _list(made: Path, verb: str) -> None:
    """Write the record of a folder that is about to take its name."""
    listed = _manifest(made).get("files", {})
    plain: dict[str, str] = {}
    links: dict[str, str] = {}
    for name in _entries(made)[0]:
        if (made / name).is_symlink():
            links[name] = os.readlink(made / name)
        elif name not in (_MANIFEST, f"{_MANIFEST}{RECORD}"):
            plain[name] = listed.get(name, {}).get("sha256") or files.sha256(made / name)
    facts = {"files": plain, **({"links": links} if links else {})}
    record = {
        "subnetworks": subnetworks.__version__,
        "written_for": {_MANIFEST: verb},
        **facts,
        "sha256": files.sha256(made / _MANIFEST),
    }
    files.write_json(made / f"{_MANIFEST}{RECORD}", record)


def _entries(root: Path) -> tuple[list[str], list[str]]:
    """Names of all files (and links, which are not followed) in a folder, and of all folders."""
    found: list[str] = []
    inner: list[str] = []
    for here, names, plain in os.walk(root):
        for name in sorted([*names, *plain]):
            path = Path(here, name)
            which = inner if path.is_dir() and not path.is_symlink() else found
            which.append(path.relative_to(root).as_posix())
    return found, inner


def _manifest(root: Path) -> dict[str, Any]:
    """A folder's manifest, if it is one of this program's."""
    try:
        value = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    ours = isinstance(value, dict) and value.get("kind") in _KINDS
    return value if ours and isinstance(value.get("files"), dict) else {}


def check_folder(path: Place, verb: str, name: Path | None = None) -> None:
    """Refuse to replace a folder unless it is this program's, made by `verb`, and nothing else.

    Args:
        path: the folder.
        verb: what is to make it anew.
        name: what to call it, if it has been moved.

    Raises:
        UserError: what is there, and what to do.
    """
    shown = name or Path(path)
    if not os.path.lexists(path):
        _parents(shown)
        return
    root = Path(path).resolve()
    if not root.is_dir():
        raise UserError(f"{shown}: not a folder; {_ELSEWHERE} folder")
    found, inner = _entries(root)
    if not found and not inner:
        return
    record, manifest = read_record(root / f"{_MANIFEST}{RECORD}"), _manifest(root)
    by = purpose_of(record, _MANIFEST)
    makers = (by,) if by else _KINDS.get(str(manifest.get("kind")), ())
    if (root / _MANIFEST).exists() and makers and verb not in makers:
        raise UserError(
            f"{shown}: was made by `{' or '.join(makers)}`, not by `{verb}`; {_ELSEWHERE} folder"
        )
    known = _Known(root, record, manifest)
    foreign = [one for one in found if not makers or not known(one)]
    kept = {str(parent) for one in found for parent in Path(one).parents}
    foreign += [one for one in inner if one not in kept]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{shown}: holds {foreign[0]}{more}, of which no manifest says that this program wrote "
            f"it as it is; {_ELSEWHERE} folder"
        )


class _Known:
    """Which files and links of a folder are as its record or manifest says."""

    def __init__(self, root: Path, record: dict[str, Any], manifest: dict[str, Any]) -> None:
        self._root = root
        self._record = record
        listed = {
            name: entry.get("sha256")
            for name, entry in manifest.get("files", {}).items()
            if isinstance(entry, dict)
        }
        self._files: dict[str, Any] = record.get("files", listed)
        self._links: dict[str, Any] | None = record.get("links") if "files" in record else None
        # Without a record only the content says which link is the one that was made.
        self._followed = "files" not in record
        self._manifest = bool(manifest)
        # An older record lists nothing, but was written after all that belongs to the folder.
        self._since: int | None = None
        if record and self._followed and not manifest:
            self._since = (root / f"{_MANIFEST}{RECORD}").lstat().st_ctime_ns
            self._only_links = purpose_of(record, _MANIFEST) == "fetch"

    def __call__(self, name: str) -> bool:
        path = self._root / name
        if name == f"{_MANIFEST}{RECORD}":
            return bool(self._record) and not path.is_symlink()
        if _UNFINISHED.fullmatch(name) and stat.S_ISREG(path.lstat().st_mode):
            return True  # of a call that was killed once the folder had its name
        if self._since is not None:
            unchanged = path.lstat().st_ctime_ns <= self._since
            return unchanged and (path.is_symlink() or not self._only_links)
        if path.is_symlink():
            if not self._followed:
                return (self._links or {}).get(name) == os.readlink(path)
        elif not stat.S_ISREG(path.lstat().st_mode):
            return False
        if name == _MANIFEST:
            wanted = self._record.get("sha256")
            return self._manifest and wanted in (None, files.sha256(path))
        return name in self._files and path.is_file() and self._files[name] == files.sha256(path)


def check_working(verb: str, paths: Iterable[Path], known: bool) -> None:
    """Refuse to use working files that another has left under their names.

    Args:
        verb: the command.
        paths: the files and folders.
        known: whether a record says that `verb` has worked there.

    Raises:
        UserError: what is there, and what to do.
    """
    for path in paths:
        _parents(path)
        if not os.path.lexists(path):
            continue
        empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        if path.is_symlink() or not (known or empty):
            raise UserError(
                f"{path}: exists, and no record says that `{verb}` wrote it; {_ELSEWHERE} folder"
            )
