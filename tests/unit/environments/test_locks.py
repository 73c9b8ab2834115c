"""Locks, conda files and pyproject.toml say the same, and name no place to fetch anything from."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import lock
from subnetworks.core.environment import environments, normalised, pins

ROOT = Path(__file__).parents[3]
ENVS = ROOT / "envs"
TABLE = environments()
BY_HAND = ("snakemake", "lint", "docs", "parity", "coverage")
STAGES = sorted(set(TABLE) - set(BY_HAND))
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock_of(name: str) -> Path:
    return ENVS / "locks" / f"{name}.txt"


def requirements(name: str) -> list[str]:
    """What pyproject.toml asks of an environment, groups within groups unfolded."""
    content = project()
    entry = TABLE[name]
    wanted: list[str] = []
    if "extras" in entry:
        wanted += content["project"]["dependencies"]
        for extra in entry["extras"]:
            wanted += content["project"]["optional-dependencies"][extra]
    groups = list(entry["groups"])
    while groups:
        for requirement in content["dependency-groups"][groups.pop()]:
            if isinstance(requirement, dict):
                groups.append(requirement["include-group"])
            else:
                wanted.append(requirement)
    return wanted


def conda_pins(name: str) -> dict[str, str]:
    """The pins in a conda file and in the script that runs after it; no package twice."""
    content = yaml.safe_load((ENVS / f"{name}.yaml").read_text())
    (pip,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    lines = [line for line in pip if not line.startswith("--")]
    script = ENVS / f"{name}.post-deploy.sh"
    if script.exists():
        (install,) = re.findall(r"pip install --no-deps (.*)", script.read_text())
        lines += install.split()
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines)
    return found


def test_every_environment_is_locked_and_no_other() -> None:
    assert {path.stem for path in (ENVS / "locks").glob("*.txt")} == set(TABLE)
    assert {path.stem for path in ENVS.glob("*.yaml")} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_conda_file_and_lock_hold_the_same_pins(name: str) -> None:
    assert conda_pins(name) == pins(lock_of(name))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_lock_satisfies_what_pyproject_asks(name: str) -> None:
    locked = pins(lock_of(name))
    for requirement in requirements(name):
        package, relation, version = re.fullmatch(
            r"([\w.-]+)(?:\[[\w,]+\])?(?:(==|<)(\S+))?", requirement
        ).groups()
        assert normalised(package) in locked, requirement
        found = locked[normalised(package)]
        if relation == "==":
            assert found == version
        elif relation == "<":
            assert [int(n) for n in found.split(".")] < [int(n) for n in version.split(".")]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_lock_leaves_out_what_is_excluded(name: str) -> None:
    assert not set(TABLE[name].get("exclude", [])) & set(pins(lock_of(name)))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_pin_has_a_hash_unless_its_build_depends_on_the_source(name: str) -> None:
    text = lock_of(name).read_text()
    for package, version in pins(lock_of(name)).items():
        (entry,) = re.findall(
            rf"^{re.escape(package)}==[^\\\n]*(?:\\\n    --hash=sha256:[0-9a-f]{{64}} ?)*",
            text,
            re.M,
        )
        assert ("--hash=sha256:" in entry) == ("+" not in version), package


@pytest.mark.parametrize("name", sorted(TABLE))
def test_lock_names_no_place(name: str) -> None:
    text = lock_of(name).read_text()
    assert not re.search(r"://|@ |^-|--(?!hash)[a-z]| /", text, re.M)


@pytest.mark.parametrize("name", STAGES)
def test_conda_file_names_no_place_but_the_publisher_of_cpu_builds(name: str) -> None:
    text = (ENVS / f"{name}.yaml").read_text()
    assert set(re.findall(r"\S+://\S+", text)) <= {CPU_INDEX}
    assert (CPU_INDEX in text) == pins(lock_of(name)).get("torch", "").endswith("+cpu")


@pytest.mark.parametrize("name", STAGES)
def test_conda_file_is_what_lock_writes_and_takes_python_from_conda_forge(name: str) -> None:
    written = lock.conda_files(name, TABLE[name], pins(lock_of(name)))
    assert {file: (ENVS / file).read_text() for file in written} == written
    content = yaml.safe_load(written[f"{name}.yaml"])
    assert content["channels"] == ["conda-forge"]  # conda 26.7 takes `nodefaults` for a channel
    of_conda = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    assert of_conda == ["conda-forge::python=3.11", "conda-forge::pip"]


@pytest.mark.parametrize("name", ["train-cpu", "evaluate-cpu"])
def test_vllm_for_cpus_gets_its_other_name_under_conda_too(name: str) -> None:
    script = (ENVS / f"{name}.post-deploy.sh").read_text()
    assert script.startswith("#!/usr/bin/env bash\n")
    assert (ENVS / "alias_distribution.py").read_text() in script
