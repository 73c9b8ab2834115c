"""What a result says of the packages it was made with."""

import importlib.metadata
from pathlib import Path

import pytest

from subnetworks.core.environment import normalised
from subnetworks.core.provenance import installed, versions


def test_versions_are_those_of_importlib_metadata() -> None:
    expected: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        expected.setdefault(normalised(distribution.metadata["Name"]), distribution.version)
    assert installed() == expected
    assert versions(["numpy", "no-such-package"]) == {"numpy": expected["numpy"]}


def test_folders_of_all_installers_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A_b.c-1.0+cpu.dist-info", "old-2.1-py3.11.egg-info", "notes.txt"):
        (tmp_path / name).mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "old-9.dist-info").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path), "/absent", str(tmp_path / "second")])
    assert installed() == {"a-b-c": "1.0+cpu", "old": "2.1"}
