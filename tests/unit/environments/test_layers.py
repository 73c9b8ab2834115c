"""The contracts of which part may import which: an import turned round breaks its contract."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BESIDE = (Path(sys.executable).parent, ROOT / ".venvs" / "lint" / "bin")
TOOL = shutil.which("lint-imports", path=os.pathsep.join(map(str, BESIDE)))
PARTS, CORE, TORCH = (
    "Parts import downwards",
    "So do the modules of core",
    "What draws and tabulates needs no torch",
)
pytestmark = pytest.mark.skipif(TOOL is None, reason="needs import-linter")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "src"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def verdicts(checkout: Path) -> tuple[dict[str, str], str]:
    """KEPT or BROKEN of each contract, and all that was printed."""
    found = subprocess.run(
        [str(TOOL), "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
    )
    lines = (line.rpartition(" ") for line in found.stdout.splitlines())
    return {a: c for a, _, c in lines if c in ("KEPT", "BROKEN")}, found.stdout


def test_the_contracts_are_kept(checkout: Path) -> None:
    assert verdicts(checkout)[0] == dict.fromkeys((PARTS, CORE, TORCH), "KEPT")


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("core.errors", "subnetworks.checkpoints.tensors", PARTS),
        ("measuring.masks", "subnetworks.training.settings", PARTS),
        ("training.settings", "subnetworks.evaluation.settings", PARTS),
        ("core.files", "subnetworks.core.outputs", CORE),
        ("artefacts.style", "torch", TORCH),
    ],
)
def test_an_import_turned_round(checkout: Path, module: str, imported: str, contract: str) -> None:
    file = (checkout / "src" / "subnetworks" / module.replace(".", "/")).with_suffix(".py")
    # Within a function, too: what is imported late is needed all the same.
    file.write_text(f"{file.read_text()}\n\ndef _late() -> None:\n    import {imported}\n")
    found, printed = verdicts(checkout)
    assert found == {**dict.fromkeys((PARTS, CORE, TORCH), "KEPT"), contract: "BROKEN"}
    assert f"subnetworks.{module} -> {imported}" in printed
