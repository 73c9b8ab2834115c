"""The Hub: what a repository holds at a revision, and its files here, each verified."""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.hub.sources import Source
from subnetworks.core.errors import UserError
from subnetworks.core.files import alone, canonical_json, write_json

# Files fetched, and hashed, at a time.
_WORKERS = 8
# Whole rounds over what is missing; the client resumes a cut file by itself within each.
_ROUNDS = 3
# Kept free on the disk beside what is downloaded.
_SPARE = 100_000_000
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK = 1 << 20


class Unreachable(UserError):
    """The Hub does not answer."""


@dataclass(frozen=True)
class Content:
    """What a file must be: bytes, and its SHA-256 (of a large file) or git's SHA-1 of it."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str:
        """The one of the two that the Hub names the file by."""
        return self.sha256 or self.git_sha1 or ""

    def of(self, path: Path) -> bool:
        """Whether the file at `path` has this content; reads all of it."""
        if path.stat().st_size != self.size:
            return False
        hasher = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size)
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
        return hasher.hexdigest() == self.digest

    def record(self) -> dict[str, Any]:
        """As a lock holds it."""
        kind = "sha256" if self.sha256 else "git_sha1"
        return {"size": self.size, kind: self.digest}


@dataclass(frozen=True)
class Entry:
    """A source resolved: the commit, and the content of every file that is needed."""

    commit: str
    files: Mapping[str, Content]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(content.size for content in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(canonical_json(self.record()).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """As a lock holds it."""
        return {
            "commit": self.commit,
            "files": {name: self.files[name].record() for name in sorted(self.files)},
        }


def resolve(source: Source) -> Entry:
    """Ask the Hub for a source's commit and files; nothing is downloaded.

    Raises:
        UserError: no such repository or revision, no access to it, nothing in it that is needed.
        Unreachable: no answer.
    """
    with _asking(source):
        from huggingface_hub import HfApi

        api = HfApi()
        info = api.repo_info(source.repository, repo_type=source.kind, revision=source.revision)
        if getattr(info, "gated", False):
            # What a gated repository holds is public, its files are not: better known now.
            api.auth_check(source.repository, repo_type=source.kind)
        commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise UserError(f"{source}: the Hub names no commit; nothing to hold on to")
    listed = _listed(source, commit)
    return Entry(commit, {name: listed[name] for name in source.needed(listed)})


def _listed(source: Source, commit: str) -> dict[str, Content]:
    """Content of every file of a commit, as the Hub says."""
    with _asking(source):
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        found = HfApi().list_repo_tree(
            source.repository, recursive=True, revision=commit, repo_type=source.kind
        )
        return {
            file.path: Content(file.size, file.lfs.sha256)
            if file.lfs
            else Content(file.size, None, file.blob_id)
            for file in found
            if isinstance(file, RepoFile)
        }


def download(
    source: Source, entry: Entry, cache: str | os.PathLike[str] | None = None, *, anew: bool = False
) -> Path:
    """Bring the files of `entry` into the Hub's cache; returns the snapshot's folder.

    Only what is missing is asked for: nothing at all if everything is there. Files arrive in
    parallel, a cut one is resumed, a finished one kept. Each is compared with its digest; one that
    fails is fetched once more.

    Args:
        source: the repository.
        entry: the commit and files.
        cache: where downloads lie (default: the Hub's own cache).
        anew: read again also what was verified before.

    Raises:
        UserError: the disk is too small, the Hub has not the same files any more or gives no
            access, a file arrives damaged twice.
        Unreachable: no answer.
    """
    storage = _storage(source, cache)
    folder = storage / "snapshots" / entry.commit
    with _alone(storage):
        missing = [name for name, what in entry.files.items() if not _there(folder / name, what)]
        if missing:
            _require_room(source, entry, missing, cache)
            _require_same(source, entry, missing)
            _get(source, entry.commit, missing, cache)
        if wrong := _wrong(storage, folder, entry, anew):
            for name in wrong:
                print_damaged(source, name)
                _remove(folder / name)
            _get(source, entry.commit, wrong, cache)
            if wrong := _wrong(storage, folder, entry, anew=False):
                for name in wrong:
                    _remove(folder / name)
                raise UserError(
                    f"{source}: {', '.join(wrong)}: damaged on its way, twice; removed: try again "
                    "later, or from another network"
                )
    return folder


def print_damaged(source: Source, name: str) -> None:
    """Say that a file is fetched once more."""
    logging.getLogger(__name__).warning(
        "%s: %s does not have the content it should; fetching it once more", source, name
    )


def remember(source: Source, entry: Entry, cache: str | os.PathLike[str] | None) -> None:
    """Keep what was found beside the downloads, for when the Hub cannot be reached."""
    write_json(_memory(source, cache), entry.record())


def recall(source: Source, cache: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What was found last, as it was kept; unchecked."""
    path = _memory(source, cache)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        return None


def _memory(source: Source, cache: str | os.PathLike[str] | None) -> Path:
    name = hashlib.sha256(source.key.encode()).hexdigest()[:32]
    return _storage(source, cache) / ".subnetworks" / f"{name}.json"


def _storage(source: Source, cache: str | os.PathLike[str] | None) -> Path:
    """The repository's folder in the cache, laid out as the Hub's client does."""
    parts = [f"{source.kind}s", *source.repository.split("/")]
    return _root(cache) / "--".join(parts)


def _root(cache: str | os.PathLike[str] | None) -> Path:
    if cache is None:
        require_client("the Hub's own cache")
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = HF_HUB_CACHE
    return Path(cache).expanduser().resolve()


def _there(path: Path, content: Content) -> bool:
    return path.is_file() and path.stat().st_size == content.size


def _remove(path: Path) -> None:
    """Remove a file of a snapshot, and what it points to."""
    if path.exists():
        path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def to_download(
    entries: Mapping[Source, Entry], cache: str | os.PathLike[str] | None = None
) -> int:
    """Bytes that are not in the cache yet, whatever is shared counted once."""
    wanted: dict[tuple[Path, str], int] = {}
    for source, entry in entries.items():
        blobs = _storage(source, cache) / "blobs"
        for content in entry.files.values():
            if not (blobs / content.digest).exists():
                wanted[blobs, content.digest] = content.size
    return sum(wanted.values())


def free(cache: str | os.PathLike[str] | None = None) -> int:
    """Bytes free where downloads lie."""
    return shutil.disk_usage(_existing(_root(cache))).free


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _require_room(
    source: Source, entry: Entry, missing: list[str], cache: str | os.PathLike[str] | None
) -> None:
    part = Entry(entry.commit, {name: entry.files[name] for name in missing})
    needed = to_download({source: part}, cache)
    parent = _existing(_root(cache))
    free = shutil.disk_usage(parent).free
    if needed and needed + _SPARE > free:
        raise UserError(
            f"{source}: {needed / 1e9:,.2f} GB to download, but only {free / 1e9:,.2f} GB are free "
            f"under {parent}; make room, or name a larger disk (config.yaml: cache, or --cache)"
        )


def _require_same(source: Source, entry: Entry, names: list[str]) -> None:
    """The Hub still has the very files that are asked for, before they are downloaded."""
    listed = _listed(source, entry.commit)
    for name in names:
        now = listed.get(name)
        if now != entry.files[name]:
            what = "is not there any more" if now is None else f"is {now.digest} now"
            raise UserError(
                f"{source}: {name}: {what}, not {entry.files[name].digest} as locked (commit "
                f"{entry.commit}); if that is meant, lock it anew: snakemake lock"
            )


def _get(
    source: Source, commit: str, names: list[str], cache: str | os.PathLike[str] | None
) -> None:
    """Have the client download files, in rounds; what one round finishes the next one keeps."""
    for attempt in range(_ROUNDS):
        try:
            with _asking(source):
                from huggingface_hub import snapshot_download

                snapshot_download(
                    source.repository,
                    repo_type=source.kind,
                    revision=commit,
                    cache_dir=os.fspath(cache) if cache is not None else None,
                    allow_patterns=[_literal(name) for name in names],
                    max_workers=_WORKERS,
                )
            return
        except Unreachable:
            if attempt + 1 == _ROUNDS:
                raise
            time.sleep(2**attempt)


def _literal(name: str) -> str:
    """A glob that matches this name only."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _wrong(storage: Path, folder: Path, entry: Entry, anew: bool) -> list[str]:
    """Files whose content is not what it should be. What is verified is remembered by its time."""
    verified = storage / ".subnetworks" / "verified"
    verified.mkdir(parents=True, exist_ok=True)

    def sound(item: tuple[str, Content]) -> bool:
        name, content = item
        path = folder / name
        if not _there(path, content):
            return False
        mark, stamp = verified / content.digest, f"{path.stat().st_mtime_ns} {content.size}"
        if not anew and mark.exists() and mark.read_text() == stamp:
            return True
        mark.unlink(missing_ok=True)
        if not content.of(path):
            return False
        mark.write_text(stamp)
        return True

    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(sound, entry.files.items()))
    return [name for name, good in zip(entry.files, found, strict=True) if not good]


@contextmanager
def _alone(storage: Path) -> Iterator[None]:
    """One process at a time in a repository's folder; others wait, and then find it all there."""
    guard = storage / ".subnetworks" / "guard"
    with ExitStack() as stack:
        try:
            guard.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(alone(guard))
        except OSError as error:
            raise UserError(
                f"{storage}: cannot be written ({error.strerror}); name another folder "
                "(config.yaml: cache, or --cache)"
            ) from error
        if held:
            # Left by a download that was killed; nobody can go on from it.
            for left in storage.glob("blobs/*.incomplete"):
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink(missing_ok=True)
        yield


def require_client(source: object) -> None:
    """Raise `UserError` where the Hub's client is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{source}: huggingface_hub is not installed here; fetch it where it is: "
            "subnetworks fetch SOURCE --output FOLDER"
        ) from error


@contextmanager
def _asking(source: Source) -> Iterator[None]:
    """Whatever the client raises, as one line with the remedy, and no secret in it."""
    require_client(source)
    import httpx
    from huggingface_hub import errors, get_token
    from huggingface_hub.utils import logging as client_logging

    client_logging.get_logger().addFilter(_plain_record)
    for handler in client_logging.get_logger().handlers:
        handler.addFilter(_plain_record)
    token = "the token that is set gives none" if get_token() else "no token is set"
    section = "datasets/" if source.kind == "dataset" else ""
    where = f"https://huggingface.co/{section}{source.repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{source}: gated, and there is no access ({token}); accept its terms at {where}, then "
            "set HF_TOKEN to a token of your account that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{source}: there is no such revision, or no longer; name another, or, if it was "
            "locked, lock what is there now: snakemake lock"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{source}: no such repository, or a private one ({token}); check the name, or set "
            "HF_TOKEN to a token of an account that may read it"
        ) from error
    except (errors.HfHubHTTPError, httpx.HTTPStatusError) as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise UserError(
                f"{source}: refused with status {status} ({token}); set HF_TOKEN to a valid token "
                f"that may read {where}"
            ) from error
        kind = Unreachable if status == 429 or status >= 500 else UserError
        raise kind(
            f"{source}: cannot be fetched (the Hub answers with status {status}); try again later"
        ) from error
    except (OSError, httpx.HTTPError, errors.HFValidationError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        if getattr(error, "errno", None) in _FULL:
            raise UserError(
                f"{source}: the disk filled up on the way; make room, or name a larger disk "
                "(config.yaml: cache, or --cache); what is finished is kept"
            ) from error
        raise Unreachable(
            f"{source}: cannot be fetched ({plain(str(error)) or type(error).__name__}); check the "
            "name and the network; what is finished is kept"
        ) from error


_FULL = (28, 122)  # no space left, quota exceeded
_URL = re.compile(r"(\w+://)(?:[^\s/@]*@)?([^\s?'\"<>]*)(\?[^\s'\"<>]*)?")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{4,}|(?<=Bearer )\S+")


def plain(text: str) -> str:
    """A message on one line, without what may open a door: tokens, signatures, passwords."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if secret := os.environ.get(name, "").strip():
            text = text.replace(secret, "…")
    text = _TOKEN.sub("…", _URL.sub(r"\1\2", text))
    return " ".join(text.split())[:300]


def _plain_record(record: logging.LogRecord) -> bool:
    """A filter: the client's own words go through `plain`, too (it prints signed addresses)."""
    record.msg, record.args = plain(record.getMessage()), None
    return True
