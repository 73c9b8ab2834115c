"""A verb whose packages are not installed says which, and how they come here."""

import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("numpy")

WITHOUT = """
import sys
from importlib import metadata
sys.modules["scipy"] = None
installed = sys.argv.pop() == "installed"
metadata.requires = lambda name: ["numpy", "scipy; extra == 'measure'"] if installed else None
from subnetworks.cli import main
main()
"""


@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ("installed", 'install it, or all that belongs to it: pip install ".[measure]"'),
        ("not", "run this in the environment of its stage, .venvs/NAME (docs/development.md)"),
    ],
)
def test_what_is_missing_is_one_line_with_the_remedy(how: str, remedy: str) -> None:
    command = [sys.executable, "-c", WITHOUT, "rank", "a.safetensors", "b.safetensors", how]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    line = f"subnetworks: error: rank needs scipy, which is not installed here; {remedy}\n"
    assert done.stderr == line
