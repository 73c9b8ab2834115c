"""Mapped files: the same counts as when they are read, and no harm if one is cut meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from checkpoints_made import llama, save, updated

from subnetworks.errors import UserError
from subnetworks.kernels.mapping import Mappings
from subnetworks.updates import measure

PARTS = ("counts", "steps", "exponents")
CUT = """
import os, sys
from subnetworks.kernels import mapping

find = mapping.Mappings.array
def then_cut(self, descriptor, begin, n):
    found = find(self, descriptor, begin, n)
    if found is not None and n > 100_000:
        os.truncate(sys.argv[2], os.path.getsize(sys.argv[2]) // {divisor})
    return found
mapping.Mappings.array = then_cut
from subnetworks.__main__ import main
main()
"""
FOREIGN = """
import mmap, sys
from subnetworks.kernels.mapping import Mappings

with open(sys.argv[1], "w+b") as file:
    file.truncate(8192)
    seen = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    with Mappings():
        print("reads", flush=True)
        seen[5000]
"""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints of odd sizes; the last tensors end within a page and within a word."""
    rng = np.random.default_rng(17)
    before = llama(rng, layers=2, hidden=72, vocabulary=3001)
    files = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    for file, tensors in zip(files, (before, updated(before, rng)), strict=True):
        save(file, tensors)
    return files


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_mapped_files_give_the_same_counts_digests_and_mask(
    pair: tuple[Path, Path], tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    find = Mappings.array

    def noted(self: Mappings, descriptor: int, begin: int, n: int) -> np.ndarray | None:
        found = find(self, descriptor, begin, n)
        used.append(found is not None)
        return found

    monkeypatch.setattr(Mappings, "array", noted)
    results = []
    for mapped in (False, True):
        mask = tmp_path / f"{mapped}.safetensors"
        result = measure(*pair, mask=mask, threads=threads, mapped=mapped)
        counted = [
            (one.pair.name, *(getattr(one.counts, part).tolist() for part in PARTS))
            for one in result.tensors
        ]
        results.append((counted, result.digests, mask.read_bytes()))
    assert results[0] == results[1]
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 5):
        assert any(used)  # what has just been written is in memory


@pytest.mark.parametrize("divisor", [2, 300])
def test_a_file_cut_while_it_is_measured(
    pair: tuple[Path, Path], tmp_path: Path, divisor: int
) -> None:
    script = CUT.format(divisor=divisor)
    out = tmp_path / "out"
    done = run(script, "measure", pair[1], pair[0], "--json", out / "u.json", "--mask", out / "m")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"{pair[1]}: ends early; it was cut while being read" in done.stderr
    assert list(out.iterdir()) == []


def test_a_file_cut_and_whole_again_is_read_instead(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(*pair).digests
    content = pair[0].read_bytes()
    find = Mappings.array

    def cut(self: Mappings, descriptor: int, begin: int, n: int) -> np.ndarray | None:
        found = find(self, descriptor, begin, n)
        if found is not None:
            os.truncate(pair[0], 0)
            int(found[0])
            pair[0].write_bytes(content)
        return found

    monkeypatch.setattr(Mappings, "array", cut)
    assert measure(*pair, threads=1, mapped=True).digests == expected


def test_another_fault_than_its_own_ends_the_process_as_ever(tmp_path: Path) -> None:
    done = run(FOREIGN, tmp_path / "file")
    assert done.stdout == "reads\n"
    assert done.returncode == -signal.SIGBUS


def test_the_former_handler_returns_and_a_second_maps_nothing(pair: tuple[Path, Path]) -> None:
    before = signal.getsignal(signal.SIGBUS)
    signal.signal(signal.SIGBUS, lambda *_: None)
    try:
        with open(pair[0], "rb") as file, Mappings() as first, Mappings() as second:
            assert second.array(file.fileno(), 0, 100) is None
            found = first.array(file.fileno(), 0, 100)
            if found is not None:
                assert found.tobytes() == pair[0].read_bytes()[:200]
        os.kill(os.getpid(), signal.SIGBUS)  # still Python's own
    finally:
        signal.signal(signal.SIGBUS, before)


def test_the_library_maps_nothing_unasked(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Mappings) -> Mappings:
        raise UserError("mapped")

    monkeypatch.setattr(Mappings, "__enter__", refuse)
    measure(*pair)
