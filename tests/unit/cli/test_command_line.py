"""The command line as a whole: its verbs, and what starting one loads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints_made import bf16, save

VERBS = (
    "apply convert delta evaluate fetch fetch-data figure gradients lock make mask measure "
    "mix overlap plan predict rank ranking report sample schema sync table times train trajectory "
    "transfer"
).split()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_help_lists_every_verb() -> None:
    lines = run("-m", "subnetworks", "--help").stdout.split("Commands:")[1].splitlines()
    assert (
        sorted(line.split()[0] for line in lines if line.startswith("  ") and line[2] != " ")
        == VERBS
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(verb: str) -> None:
    done = run("-m", "subnetworks", verb, "--help")
    assert done.returncode == 0
    assert f"subnetworks {verb} [OPTIONS]" in done.stdout
    assert f"python -m subnetworks {verb} " in " ".join(done.stdout.split())


def test_a_verb_loads_no_other_and_nothing_slow() -> None:
    program = (
        "import sys; sys.argv = ['subnetworks', 'measure', '--help']\n"
        "from subnetworks.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    loaded = set(run("-c", program).stdout.splitlines()[-1].split())
    assert "subnetworks.cli.measure" in loaded
    verbs = {name for name in loaded if name.startswith("subnetworks.cli.")}
    assert verbs == {"subnetworks.cli.measure"}
    assert not loaded & {"numpy", "rich", "torch", "numba", "scipy", "pyarrow"}


def test_measuring_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    for side in ("before", "after"):
        save(tmp_path / f"{side}.safetensors", {"w": bf16(np.ones((8, 8)))})
    measuring = ["measure", *(str(tmp_path / f"{s}.safetensors") for s in ("before", "after"))]
    run("-m", "subnetworks", *measuring)  # the kernels are compiled now, if they were not
    program = (
        f"import sys; sys.argv = ['subnetworks', *{measuring!r}]\n"
        "from subnetworks.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    loaded = set(run("-c", program).stdout.splitlines()[-1].split())
    assert "subnetworks.measuring.updates.measuring" in loaded
    libraries = {
        "numba",
        "torch",
        "scipy",
        "pandas",
        "pyarrow",
        "rich",
        "yaml",
        "jsonschema",
        "pydantic",
    }
    assert not loaded & (libraries | {"numpy.random", "subnetworks.checkpoints.hub.client"})


def test_an_unknown_verb_is_named() -> None:
    done = run("-m", "subnetworks", "mesure")
    assert done.returncode == 2
    assert "mesure" in done.stderr
