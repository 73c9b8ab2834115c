"""An environment is complete or it is built anew; what goes wrong is said in one line."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import build
from subnetworks.core.errors import UserError

ROOT = Path(__file__).parents[3]
FAKE_UV = """\
#!{python}
import os, pathlib, sys
root = pathlib.Path({root!r})
with open(root / "calls", "a") as calls:
    print(*sys.argv[1:], sep=" ", file=calls)
if sys.argv[1] == "venv":
    folder = pathlib.Path(sys.argv[-1])
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").touch()
    (folder / "bin" / "python").symlink_to(sys.executable)
elif (root / "no-torch").exists() and sys.argv[-1] == "torch==1+cpu":
    sys.exit("no such torch")
elif (root / "broken").exists() and "--requirement" in sys.argv:
    sys.exit("no such package")
"""


class Project:
    """A checkout with one environment, `tiny`, and a stand-in for uv that notes its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "envs" / "locks" / "tiny.txt"
        self.lock.parent.mkdir(parents=True)
        self.lock.write_text("something==1 \\\n    --hash=sha256:00\n")
        self.folder = root / "venvs" / "tiny"
        self.imports = ["json"]
        uv = root / "uv"
        uv.write_text(FAKE_UV.format(python=sys.executable, root=str(root)))
        uv.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def build(self) -> None:
        build.build("tiny", self.folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setattr(build, "ENVS", tmp_path / "envs")
    monkeypatch.setattr(build, "environments", lambda: {"tiny": {"imports": made.imports}})
    monkeypatch.setattr(build, "find_uv", lambda *_: str(tmp_path / "uv"))
    return made


def test_built_once(project: Project) -> None:
    project.build()
    assert (project.folder / ".complete").exists()
    built = len(project.calls)
    assert any("--no-deps --requirement" in call for call in project.calls)
    project.build()
    assert len(project.calls) == built


def test_another_lock_or_another_import_builds_anew(project: Project) -> None:
    project.build()
    (project.folder / "left over").touch()
    project.lock.write_text("something==2\n")
    project.build()
    assert not (project.folder / "left over").exists()
    (project.folder / "left over").touch()
    project.imports.append("csv")
    project.build()
    assert not (project.folder / "left over").exists()


def test_a_build_that_was_cut_short_is_not_taken_for_finished(project: Project) -> None:
    (project.root / "broken").touch()
    with pytest.raises(UserError, match="failed with status 1"):
        project.build()
    assert project.folder.exists()
    assert not (project.folder / ".complete").exists()
    (project.root / "broken").unlink()
    project.build()
    assert (project.folder / ".complete").exists()


def test_an_environment_that_does_not_import_is_not_complete(project: Project) -> None:
    project.imports.append("no_such_package")
    with pytest.raises(UserError, match=r"import no_such_package.*No module named"):
        project.build()
    assert not (project.folder / ".complete").exists()


def test_a_folder_that_is_no_environment_is_left_alone(project: Project) -> None:
    project.folder.mkdir(parents=True)
    (project.folder / "thesis.tex").touch()
    with pytest.raises(UserError, match="no virtual environment"):
        project.build()
    assert (project.folder / "thesis.tex").exists()


@pytest.mark.parametrize("configured", [True, False])
def test_torch_for_cpus_comes_from_the_configured_sources_first(
    project: Project, configured: bool
) -> None:
    project.lock.write_text("torch==1+cpu\n")
    if not configured:
        (project.root / "no-torch").touch()
    project.build()
    asked = [call for call in project.calls if "torch==1+cpu" in call]
    assert build.PYTORCH_CPU_INDEX not in asked[0]
    assert len(asked) == (1 if configured else 2)
    assert all(call.endswith(f"--default-index {build.PYTORCH_CPU_INDEX}") for call in asked[1:])


def test_an_unknown_environment_lists_the_known(project: Project) -> None:
    with pytest.raises(UserError, match="no environment 'large'; there are: tiny"):
        build.build("large", project.folder)


def test_errors_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "envs" / "build.py"), "large", "--into", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("envs/build.py: error: no environment 'large'")
    assert done.stderr.count("\n") == 1


def test_a_distribution_gets_a_second_name(tmp_path: Path) -> None:
    info = tmp_path / "real_thing-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: real-thing\nVersion: 1.2\n")
    command = [sys.executable, str(ROOT / "envs" / "alias_distribution.py")]
    command += ["real-thing", "thing", "+cpu"]
    subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, check=True)
    (found,) = importlib.metadata.distributions(name="thing", path=[str(tmp_path)])
    assert found.version == "1.2+cpu"
    assert all(file.locate().exists() for file in found.files or [])
    assert len(found.files or []) == 3


def test_make_says_where_the_trainers_do_not_run(tmp_path: Path) -> None:
    (tmp_path / "uname").write_text("#!/bin/sh\necho Darwin arm64\n")
    (tmp_path / "uname").chmod(0o755)
    done = subprocess.run(
        ["make", "bootstrap", "PYTHON=false"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith("make: the trainers need Linux on x86-64, this is Darwin arm64;")
