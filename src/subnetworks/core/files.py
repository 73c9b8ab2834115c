"""Writing results so that nothing half-written ever carries a final name."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from subnetworks.core.errors import UserError

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is called with a finished file before it takes its name, by its absolute path.
_replacing: dict[str, Callable[[Path], None]] = {}
# How long a process that was killed may take to end what it had started.
_LOCK_PATIENCE_S = 15.0


def disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, or came up while such a one was handled.

    Libraries not in Python say it in words; others trip over it when they clean up.
    """
    if getattr(error, "errno", None) in _FULL:
        return True
    if any(os.strerror(number) in str(error) for number in _FULL):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and disk_full(before)


@contextmanager
def _whole_or_not(final: Path) -> Iterator[Path]:
    """A temporary sibling of `final` that is gone afterwards; a full disk is one line."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for part in final.parent.glob(f".{glob.escape(final.name)}.*.part"):
        if _abandoned(part):
            remove(part)
    temporary = final.with_name(f".{final.name}.{os.uname().nodename}-{os.getpid()}.part")
    remove(temporary)
    try:
        yield temporary
    except UserError:
        raise  # it names what is wrong, a file within this one perhaps
    except Exception as error:
        if disk_full(error):
            raise UserError(
                f"{final}: not written, the disk is full; make room and run again"
            ) from error
        raise
    finally:
        remove(temporary)


def _abandoned(part: Path) -> bool:
    """Whether a temporary file is what a killed process of this machine has left."""
    found = re.search(rf"\.{re.escape(os.uname().nodename)}-(\d+)\.part$", part.name)
    return found is not None and not _runs(int(found[1]))


def _runs(process: int) -> bool:
    """Whether there is such a process on this machine, whoever's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; there need be none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_own(folder: Path, own: Callable[[str], bool]) -> None:
    """Remove what is ours in a folder, and the folders in it, and itself, that are then empty.

    Links are not followed, nor are folders entered through them.

    Args:
        folder: there need be none.
        own: says of a file's or link's name, relative to `folder`, whether it is ours.
    """
    for here, inner, names in os.walk(folder, topdown=False):
        links = [name for name in inner if os.path.islink(os.path.join(here, name))]
        for name in [*names, *links]:
            path = Path(here, name)
            if own(path.relative_to(folder).as_posix()):
                path.unlink()
        with contextlib.suppress(OSError):
            os.rmdir(here)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write; rename it over `path` if the block succeeds.

    On any exception the temporary file is removed and whatever was at `path` stays.
    """
    final = Path(path)
    with _whole_or_not(final) as temporary:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        if note := _replacing.get(_key(final)):
            note(temporary)
        os.replace(temporary, final)


def on_replacing(path: str | os.PathLike[str], note: Callable[[Path], None] | None) -> None:
    """Have `note` called with what is about to get the name `path` (`atomic_path`); None: not."""
    if note is None:
        _replacing.pop(_key(path), None)
    else:
        _replacing[_key(path)] = note


def _key(path: str | os.PathLike[str]) -> str:
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], check: Callable[[Path], None]) -> Iterator[Path]:
    """Like `atomic_path`, for a folder: an older folder at `path` is replaced as a whole.

    It is moved away and removed, unless `check`, called with where it lies then, raises an error:
    then it is put back.
    """
    final = Path(path)
    with (
        _whole_or_not(final) as temporary,
        _whole_or_not(final.with_name(f"{final.name}.old")) as old,
    ):
        temporary.mkdir()
        yield temporary
        # Moved away whole: emptied in place, the old one would look finished for a moment.
        while True:
            with contextlib.suppress(FileNotFoundError):
                os.rename(final, old)
                try:
                    check(old)
                except BaseException:
                    os.rename(old, final)
                    raise
            try:
                os.rename(temporary, final)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                remove(old)  # another process has just written the same


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Be the only process that works in `folder`; gives the lock's descriptor.

    A process that is handed the descriptor keeps the lock as long as it lives.

    Raises:
        UserError: another process has worked there for 15 s and still does; the lock's name belongs
            to another file.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    if os.path.lexists(path) and not _is_lock(path):
        raise UserError(f"{path}: a lock would lie here, but this file is none; move it away")
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while not (file := try_lock(path)):
        if time.monotonic() > deadline:
            holder = ""
            with contextlib.suppress(OSError):
                holder = path.read_text(encoding="utf-8").strip()
            raise UserError(
                f"{root}: {holder or 'another process'} works there; wait for it to end, or end "
                "it, and run again"
            )
        time.sleep(0.2)
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        try:
            yield file.fileno()
        finally:
            path.unlink(missing_ok=True)


def _is_lock(path: Path) -> bool:
    """Whether a file is a lock, or has been taken away meanwhile."""
    try:
        held = path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return held is not False and re.fullmatch(r"(process \d+ on \S*\n?)?", held) is not None


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Wait to be the only process in such a block; gives whether `path` can be locked at all.

    The file stays there: nobody can tell whether others wait for it. On a file system without locks
    the block is run all the same.
    """
    with open(path, "a") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            held = False
        yield held


def try_lock(path: Path) -> IO[str] | None:
    """The file `path`, locked and still of that name; None if another process has it.

    The lock is kept until the file is closed, and its descriptor's copies in other processes.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed by whoever holds the lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks
        return file
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    file.close()  # whoever held it has just left and taken it away
    return None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_changed(path: str | os.PathLike[str], text: str) -> None:
    """As `write_text`, unless that is what the file holds already."""
    try:
        if Path(path).read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    write_text(path, text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def canonical_json(value: Any) -> str:
    """JSON that depends on the value only: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def step_file(folder: Path, step: int) -> Path:
    """Where a trajectory's delta of a step lies."""
    return folder / f"step_{step:06d}.safetensors"


def kept_steps(every: int, steps: int) -> range:
    """The steps of a run of `steps` whose weights are kept, every so many; none if `every` is 0."""
    return range(every, steps + 1, every) if every else range(0)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal; read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
