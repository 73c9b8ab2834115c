"""The lock of an experiment: asked for as a whole, kept to, and never believed unchecked."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("pydantic")

from conftest import run, sharded
from loopback_hub import Hub

from subnetworks.checkpoints.hub import locks
from subnetworks.checkpoints.hub.client import Content, Entry
from subnetworks.core.errors import UserError

EXPERIMENT = """
checkpoints:
  before: { hub: owner/base }
  after: { hub: owner/tuned, revision: main }
datasets:
  pairs: { hub: owner/pairs, gives: preferences }
updates:
  change: { before: before, after: after }
"""


def lock(hub: Hub, folder: Path, **variables: str) -> Any:
    return run(hub, folder, "lock", "x.yaml", "--cache", "cache", **variables)


@pytest.fixture
def three(hub: Hub, tmp_path: Path) -> Hub:
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    hub.commit("owner/base", sharded(2))
    hub.commit("owner/tuned", sharded(2, fill=3))
    hub.commit("owner/pairs", {"data/train-0.parquet": b"PAR1", "data/test-0.parquet": b"PAR1"})
    return hub


def test_all_sources_are_asked_and_nothing_is_downloaded(three: Hub, tmp_path: Path) -> None:
    done = lock(three, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 sources" in done.stdout
    assert not any("/resolve/" in path for _, path, _ in three.requests)
    entries = locks.read(tmp_path / "x.lock")
    assert set(entries) == {
        "model owner/base@main",
        "model owner/tuned@main",
        "dataset owner/pairs@main *train*.parquet",
    }
    assert list(entries["dataset owner/pairs@main *train*.parquet"].files) == [
        "data/train-0.parquet"
    ]
    before = (tmp_path / "x.lock").read_bytes()
    assert lock(three, tmp_path).returncode == 0
    assert (tmp_path / "x.lock").read_bytes() == before


def test_locking_again_moves_on_and_says_so(three: Hub, tmp_path: Path) -> None:
    assert lock(three, tmp_path).returncode == 0
    old = three.main["owner/tuned"]
    new = three.commit("owner/tuned", sharded(2, fill=9))
    done = lock(three, tmp_path)
    assert f"model owner/tuned@main: {old} → {new}" in done.stdout
    assert locks.read(tmp_path / "x.lock")["model owner/tuned@main"].commit == new


def test_every_source_without_access_is_named_at_once(three: Hub, tmp_path: Path) -> None:
    three.gated |= {"owner/base", "owner/tuned"}
    del three.repositories["owner/pairs"]
    done = lock(three, tmp_path)
    assert done.returncode == 2
    words = done.stderr.splitlines()[-1]
    for name in ("checkpoints.before", "checkpoints.after", "datasets.pairs"):
        assert name in words
    assert words.count("accept its terms at https://huggingface.co/owner/") == 2
    assert "no such repository" in words


ENTRY = Entry("a" * 40, {"model.safetensors": Content(5, sha256="b" * 64)})


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    locks.write(tmp_path / "x.lock", {"model o/n@main": ENTRY})
    assert locks.read(tmp_path / "x.lock") == {"model o/n@main": ENTRY}
    assert locks.read(tmp_path / "none.lock") == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock.update(format="another"),
        lambda lock: lock.update(sources=[]),
        lambda lock: lock["sources"]["model o/n@main"].update(commit="main"),
        lambda lock: lock["sources"]["model o/n@main"].update(url="http://x"),
        lambda lock: lock["sources"]["model o/n@main"].update(files={}),
        lambda lock: lock["sources"].update({"model o/n": ENTRY.record()}),
        *(
            lambda lock, name=name: lock["sources"]["model o/n@main"]["files"].update(
                {name: {"size": 1, "sha256": "b" * 64}}
            )
            for name in ("../x", "/etc/passwd", "a/../../x", "a\\..\\x", "a\nb", "", "a//b", "./a")
        ),
        *(
            lambda lock, facts=facts: lock["sources"]["model o/n@main"]["files"].update(
                {"config.json": facts}
            )
            for facts in (
                {},
                {"size": -1, "sha256": "b" * 64},
                {"size": True, "sha256": "b" * 64},
                {"size": 1, "sha256": "../x"},
                {"size": 1, "md5": "b" * 32},
                {"size": 1, "sha256": "B" * 64},
            )
        ),
    ],
)
def test_what_no_lock_says_is_refused(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x.lock"
    locks.write(path, {"model o/n@main": ENTRY})
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"x\.lock.*snakemake lock"):
        locks.read(path)


def test_a_note_is_new_only_where_the_entry_is_another(tmp_path: Path) -> None:
    note = tmp_path / "locked" / "checkpoints.x"
    locks.note(note, None)  # what was fetched before there was a lock is older
    assert (note.read_text(), note.stat().st_mtime) == ("", 0)
    locks.note(note, ENTRY)
    assert note.read_text() == ENTRY.digest
    assert note.stat().st_mtime > 0
    os.utime(note, (5, 5))
    for entry in (ENTRY, None):
        locks.note(note, entry)
        assert (note.read_text(), note.stat().st_mtime) == (ENTRY.digest, 5)
    locks.note(note, replace(ENTRY, commit="b" * 40))
    assert note.read_text() != ENTRY.digest
    assert note.stat().st_mtime > 5
