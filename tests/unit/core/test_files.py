"""Nothing half-written carries a final name, whatever happens to who writes it."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

from subnetworks import cli
from subnetworks.core import files, provenance
from subnetworks.core.errors import UserError

SOURCE = Path(files.__file__).parents[2]


def run(code, stdin=None):
    variables = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen([sys.executable, "-c", code], env=variables, stdin=stdin)


@pytest.mark.parametrize("kind", ["atomic_path", "atomic_folder"])
def test_what_a_killed_process_left_is_cleared_away(tmp_path, kind):
    result = tmp_path / "result"
    write = "part.write_text('half')" if kind == "atomic_path" else "(part / 'a').write_text('x')"
    checked = "" if kind == "atomic_path" else ", print"
    killed = run(
        f"import os, signal\nfrom subnetworks.core.files import {kind}\n"
        f"with {kind}({str(result)!r}{checked}) as part:\n    {write}\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert killed.wait() == -9
    assert len(list(tmp_path.iterdir())) == 1 and not result.exists()
    checks = [] if kind == "atomic_path" else [print]
    with getattr(files, kind)(result, *checks) as part:
        part.write_text("whole") if kind == "atomic_path" else (part / "a").write_text("whole")
    assert list(tmp_path.iterdir()) == [result]


def test_what_another_process_is_writing_stays(tmp_path):
    # The process above this one lives; no process has a number as large as the last.
    living, gone = (
        tmp_path / f".result.{socket.gethostname()}-{number}.part"
        for number in (os.getppid(), 2**31 - 1)
    )
    for path in (living, gone):
        path.write_text("half")
    with files.atomic_path(tmp_path / "result") as part:
        part.write_text("whole")
    assert living.exists() and not gone.exists()


def test_a_folder_is_replaced_by_several_at_once(tmp_path):
    folder = tmp_path / "folder"
    code = f"""
from pathlib import Path
from subnetworks.core.files import atomic_folder
for _ in range(100):
    with atomic_folder({str(folder)!r}, lambda old: None) as part:
        for k in range(20):
            (part / f"part{{k}}").touch()
        (part / "mark").touch()
"""
    writers = [run(code) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(list(folder.iterdir())) == 21
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, error):
    def write():
        with files.atomic_path(tmp_path / "result") as part:
            part.write_text("half")
            raise error

    with pytest.raises(UserError, match=r"result: not written, the disk is full; make room"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_where_a_library_fails_over_it(tmp_path):
    def write():
        with files.atomic_path(tmp_path / "result"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                object().position  # noqa: B018 (matplotlib does so when it closes a PDF)

    with pytest.raises(UserError, match=r"result: not written, the disk is full; make room"):
        write()


def test_a_full_disk_names_the_file_that_was_not_written(tmp_path):
    def write():
        with (
            files.atomic_folder(tmp_path / "folder", print) as part,
            files.atomic_path(part / "inner"),
        ):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"inner: not written"):
        write()


def test_a_full_disk_anywhere_else_is_one_line_too(monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    monkeypatch.setattr(cli, "load", lambda verb: full)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == (
        "subnetworks: error: some/file: not written, the disk is full; make room and run again\n"
    )


def test_one_process_works_in_a_folder_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LOCK_PATIENCE_S", 0.3)
    with files.locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        words = f"process {os.getpid()} on .* works there; wait for it to end"
        with pytest.raises(UserError, match=words), files.locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_whoever_was_handed_the_lock_keeps_it_when_the_first_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LOCK_PATIENCE_S", 0.3)
    there, ours = os.pipe()
    killed = run(
        "import os, subprocess, sys\nfrom subnetworks.core.files import locked\n"
        f"with locked({str(tmp_path)!r}) as lock:\n"
        "    child = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "    subprocess.Popen(child, pass_fds=[lock])\n    os.kill(os.getpid(), 9)\n",
        stdin=there,
    )
    os.close(there)
    assert killed.wait() == -9
    with pytest.raises(UserError, match="works there"), files.locked(tmp_path):
        pass
    os.close(ours)  # the child ends
    monkeypatch.setattr(files, "_LOCK_PATIENCE_S", 60.0)
    with files.locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_not_as_it_was_written_is_refused(tmp_path):
    result = tmp_path / "result.json"
    with provenance.recorded(result):
        files.write_json(result, {"sparsity": 0.25})
    provenance.check(result)
    result.write_text(json.dumps({"sparsity": 0.35}))
    with pytest.raises(UserError, match=r"result.json: not as it was written .*remove it"):
        provenance.check(result)
    (tmp_path / "result.json.meta.json").unlink()
    provenance.check(result)
