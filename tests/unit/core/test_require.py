"""A job under the wrong interpreter is refused, with what is wrong and what to do."""

from pathlib import Path

import pytest

from subnetworks.core.environment import (
    DEPLOYMENT,
    VARIABLE,
    built_by,
    mismatch,
    pins,
    require,
    require_named,
)
from subnetworks.core.errors import UserError

PYPROJECT = """\
[tool.subnetworks.environments]
measure = {{ imports = ["pytest"] }}
train-cpu = {{ imports = ["no_such_package"] }}
train-cuda = {{ imports = ["{cuda}"] }}
"""


def checkout(
    root: Path, cuda: str = "no_such_package", pytest_pin: str = pytest.__version__
) -> Path:
    (root / "pyproject.toml").write_text(PYPROJECT.format(cuda=cuda))
    locks = root / "envs" / "locks"
    locks.mkdir(parents=True)
    for name in ("measure", "train-cpu", "train-cuda"):
        (locks / f"{name}.txt").write_text(
            f"no-such-package==1.0 \\\n    --hash=sha256:00\npytest=={pytest_pin}\n"
        )
    return root


def test_the_right_environment_passes(tmp_path: Path) -> None:
    require("measure", checkout(tmp_path))


def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        require("train-cpu", checkout(tmp_path))
    message = str(error.value)
    assert "environment `train-cpu`" in message
    assert "no-such-package is missing" in message
    assert "python envs/build.py train-cpu" in message
    assert "\n" not in message


def test_under_conda_the_remedy_is_condas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEPLOYMENT, "conda")
    with pytest.raises(
        UserError, match=r"--list-conda-envs` names for envs/train-cpu\.yaml"
    ) as error:
        require("train-cpu", checkout(tmp_path))
    assert ".venvs" not in str(error.value).partition("no-such-package")[2]


@pytest.mark.parametrize(
    ("files", "maker"),
    [
        ({}, "system"),
        ({"pyvenv.cfg": "home = /usr/bin\nuv = 0.13.8\n"}, "uv"),
        ({"pyvenv.cfg": "home = /opt/uv = 1/bin\n"}, "venv"),
        ({"conda-meta/history": "", "pyvenv.cfg": "uv = 0.13.8\n"}, "conda"),
    ],
)
def test_what_made_an_environment(tmp_path: Path, files: dict[str, str], maker: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert built_by(tmp_path) == maker


def test_another_version_is_another_environment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"pytest is {pytest.__version__}, not 0\.1"):
        require("measure", checkout(tmp_path, pytest_pin="0.1"))


def test_any_variant_of_a_stage_will_do(tmp_path: Path) -> None:
    require("train", checkout(tmp_path, cuda="pytest"))


def test_no_variant_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train-cpu"):
        require("train", checkout(tmp_path))


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'trian'; there are: measure, train-cpu, train-cuda"):
        require("trian", checkout(tmp_path))


def test_an_installed_copy_checks_nothing(tmp_path: Path) -> None:
    require("measure", tmp_path)


def test_only_what_the_variable_names_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    require_named()
    monkeypatch.setenv(VARIABLE, "nonsense")
    with pytest.raises(UserError, match="nonsense"):
        require_named()


@pytest.mark.parametrize(
    ("pin", "here", "fits"),
    [
        ("2.11.0", "2.11.0", True),
        ("2.11.0", "2.11.0+cu130", True),
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cpu", "2.13.0", False),
        ("2.13.0+cpu", "2.13.0+cu130", False),
        ("2.11.0", None, False),
    ],
)
def test_builds_of_a_version(pin: str, here: str | None, fits: bool) -> None:
    assert (mismatch({"torch": pin}, ["torch"], lambda _: here) is None) == fits


def test_pins_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# a==9\nPy_Yaml.x==6.0 \\\n    --hash=sha256:ab==\ntorch==2+cpu ; os_name == 'a'\n"
    )
    assert pins(lock) == {"py-yaml-x": "6.0", "torch": "2+cpu"}
