"""The lock of an experiment: what the Hub gave when it was first asked, and nothing else since.

A lock is JSON: `format`, and `sources`: for each source (`model owner/name@revision`, or `dataset
owner/name@revision GLOB`) the `commit` and, of every file that is fetched, its `size` and `sha256`
(of small files that the Hub does not keep by it `git_sha1`, of git's blob). It holds no address and
no secret, and belongs under version control beside the experiment.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.hub import client
from subnetworks.checkpoints.hub.client import Content, Entry
from subnetworks.checkpoints.hub.sources import Source, safe
from subnetworks.core.errors import UserError
from subnetworks.core.files import alone, write_changed, write_json

FORMAT = "subnetworks-lock-1"
_KEY = re.compile(r"(model|dataset) [^\s@]+@\S+( .+)?")
_DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}"), "git_sha1": re.compile(r"[0-9a-f]{40}")}
_HEAD = 1 << 16  # bytes in which a damaged lock, of a merge perhaps, still says what it is
_WORKERS = 8  # questions at a time
_COMMIT = re.compile(r"[0-9a-f]{40}")


def read(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """The entries of a lock by their source's key; none if there is no such file.

    Raises:
        UserError: it is not a lock, or says something that no lock says.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read; {_REMEDY}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON; {_REMEDY}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(f"{file}: not a lock ({FORMAT}); {_REMEDY}")
    sources = value.get("sources")
    if not isinstance(sources, dict):
        raise UserError(f"{file}: no 'sources'; {_REMEDY}")
    return {key: _entry(f"{file}: {key!r}", key, found) for key, found in sources.items()}


_REMEDY = "restore it, or write it anew: snakemake lock"


def _entry(where: str, key: str, value: Any) -> Entry:
    entry = entry_of(value)
    if entry is None or not _KEY.fullmatch(key):
        raise UserError(f"{where}: a malformed entry; {_REMEDY}")
    return entry


def entry_of(value: Any) -> Entry | None:
    """An entry from what a lock holds, or None if it is not one."""
    if not isinstance(value, dict) or set(value) != {"commit", "files"}:
        return None
    commit, files = value["commit"], value["files"]
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        return None
    if not isinstance(files, dict) or not files:
        return None
    contents = {}
    for name, facts in files.items():
        if not safe(name) or not isinstance(facts, dict) or len(facts) != 2:
            return None
        size = facts.get("size")
        if type(size) is not int or size < 0:
            return None
        kind = next(iter(set(facts) - {"size"}))
        digest = facts[kind]
        if kind not in _DIGESTS or not isinstance(digest, str):
            return None
        if not _DIGESTS[kind].fullmatch(digest):
            return None
        contents[name] = Content(size, **{kind: digest})
    return Entry(commit, contents)


def write(path: str | os.PathLike[str], entries: Mapping[str, Entry]) -> None:
    """Write a lock, atomically, in an order that depends on its content only."""
    sources = {key: entries[key].record() for key in sorted(entries)}
    write_json(path, {"format": FORMAT, "sources": sources})


def record(path: str | os.PathLike[str], source: Source, entry: Entry) -> Entry:
    """Add an entry unless there is one; returns the one that holds. Jobs side by side may do so."""
    with _alone(Path(path)):
        entries = read(path)
        if source.key not in entries:
            write(path, {**entries, source.key: entry})
            return entry
        return entries[source.key]


def pinned(
    source: Source,
    lock: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Entry:
    """What a source is held to: by the lock; if it has none, by the Hub's answer, then recorded.

    Without a lock, what was found last is used while the Hub cannot be reached.

    Raises:
        UserError: as `read` and `client.resolve`.
    """
    if lock is not None:
        if held := read(lock).get(source.key):
            return held
        return record(lock, source, client.resolve(source))
    try:
        entry = client.resolve(source)
    except client.Unreachable:
        if known := entry_of(client.recall(source, cache)):
            return known
        raise
    with suppress(OSError):  # a cache that cannot be written is reported where it is needed
        client.remember(source, entry, cache)
    return entry


def note(path: str | os.PathLike[str], entry: Entry | None) -> None:
    """Write the digest of a source's entry to a file, an input of the job that fetches it.

    Written anew only if the entry is another; a note that was not there is given the oldest time,
    so that what has been fetched stays as it is.
    """
    file = Path(path)
    new = not file.exists()
    if entry is not None or new:
        write_changed(file, entry.digest if entry else "")
    if new:
        os.utime(file, (0, 0))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{path.name}.guard")):
        yield


def lock(
    path: str | os.PathLike[str],
    sources: Mapping[str, Source],
    cache: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Ask the Hub for all sources anew and write the lock; returns what to report, in lines.

    Args:
        path: the lock.
        sources: by the name that the experiment gives each (`checkpoints.x`).
        cache: where downloads will lie.

    Raises:
        UserError: some cannot be had; those that can are recorded all the same.
    """
    file = Path(path)
    before: dict[str, Entry] = {}
    try:
        before = read(file)
    except UserError:
        # A damaged one is replaced; what never was one is not.
        if not _looks_like_one(file):
            raise UserError(f"{file}: not a lock ({FORMAT}); move it away and run again") from None
    with ThreadPoolExecutor(_WORKERS) as pool:
        asked = {source.key: source for source in sources.values()}
        answers = dict(zip(asked, pool.map(_answer, asked.values()), strict=True))
    entries = {key: found for key, found in answers.items() if isinstance(found, Entry)}
    refused = {
        name: answers[source.key] for name, source in sources.items() if source.key not in entries
    }
    with _alone(file):
        kept = {key: before[key] for key in answers if key in before and key not in entries}
        write(file, {**kept, **entries})
    lines = [
        f"{key}: {before[key].commit} → {entry.commit}"
        if before[key].commit != entry.commit
        else f"{key}: other files than before"
        for key, entry in entries.items()
        if key in before and before[key] != entry
    ]
    size = client.to_download({asked[key]: entry for key, entry in entries.items()}, cache)
    free = client.free(cache)
    lines.append(
        f"{file}: {len(entries)} of {len(asked)} sources, {size / 1e9:,.2f} GB to download, "
        f"{free / 1e9:,.2f} GB free"
    )
    if refused:
        raise UserError(
            "; ".join([*lines, *(f"{name}: {error}" for name, error in refused.items())])
        )
    return lines


def _looks_like_one(file: Path) -> bool:
    try:
        return FORMAT.encode() in file.read_bytes()[:_HEAD]
    except OSError:
        return False


def _answer(source: Source) -> Entry | UserError:
    try:
        return client.resolve(source)
    except UserError as error:
        return error
