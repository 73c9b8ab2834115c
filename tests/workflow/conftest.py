"""The finished miniature, and a copy of this checkout that a test may change."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ENVIRONMENT, RESULTS, ROOT, copy_checkout


@pytest.fixture(scope="session")
def mini(pytestconfig: pytest.Config) -> Path:
    """The finished miniature: run now, or taken as it is if it is finished already."""
    command = [sys.executable, "-m", "snakemake", "--cores", "all"]
    # Its progress goes straight to the terminal: this is most of the suite's time.
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, "the miniature failed: see its output above"
    return RESULTS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout that shares its results: for dry runs of a changed workflow."""
    copy_checkout(tmp_path)
    if (ROOT / ".snakemake").exists():
        ignore = shutil.ignore_patterns("locks", "log", "shadow", "incomplete")
        shutil.copytree(ROOT / ".snakemake", tmp_path / ".snakemake", ignore=ignore)
    if (ROOT / "results").exists():
        (tmp_path / "results").symlink_to(ROOT / "results")
    return tmp_path
