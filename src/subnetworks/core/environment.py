"""Environments by name, and whether this interpreter is the one that a stage was locked for.

Standard library only: the script that builds environments imports this before any of them exists.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
VARIABLE = "SUBNETWORKS_STAGE"
# Set to `conda` by a workflow whose environments conda makes.
DEPLOYMENT = "SUBNETWORKS_DEPLOYMENT"


def environments(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The table of environments in `root`/pyproject.toml, by name (`measure`, `train-cpu`, …)."""
    import tomllib

    with open(root / "pyproject.toml", "rb") as handle:
        table: dict[str, dict[str, Any]] = tomllib.load(handle)["tool"]["subnetworks"][
            "environments"
        ]
    return table


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it: lower case, `-` for `_` and `.`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """The versions in a lock (pip's requirements format) by normalised distribution name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), flags=re.MULTILINE)
    return {normalised(name): version for name, version in found}


def installed_version(distribution: str) -> str | None:
    """The version installed for this interpreter, or None."""
    # Takes longer to import than all else here, and most commands do not ask.
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def mismatch(
    locked: Mapping[str, str],
    imports: list[str],
    installed: Callable[[str], str | None] = installed_version,
) -> str | None:
    """How the first of the `imports` differs from its pin here; None if all are as locked.

    A pin without a local part accepts any build of that version (2.11.0 accepts 2.11.0+cu130).
    """
    for name in map(normalised, imports):
        if (pin := locked.get(name)) is None:
            continue
        here = installed(name)
        if here is None:
            return f"{name} is missing"
        if pin != (here if "+" in pin else here.partition("+")[0]):
            return f"{name} is {here}, not {pin}"
    return None


def built_by(prefix: Path | None = None) -> str:
    """What made the environment at `prefix` (this interpreter's): conda, uv, venv, or system."""
    prefix = prefix or Path(sys.prefix)
    if (prefix / "conda-meta").is_dir():
        return "conda"
    try:
        settings = (prefix / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return "system"
    return "uv" if re.search(r"^uv *=", settings, flags=re.MULTILINE) else "venv"


def lock_of(name: str, root: Path = ROOT) -> Path:
    """The lock of an environment, which an installed copy of the library has not."""
    return root / "envs" / "locks" / f"{name}.txt"


def require(name: str, root: Path = ROOT) -> None:
    """Refuse to go on under an interpreter that is not the environment `name`.

    `name` is an environment (`train-cpu`) or a stage whose variants will all do (`train`). What
    counts is that the packages the stage imports have the locked versions, so that environments
    built by conda pass as well as those built by uv. An installed copy of the library, away from
    the locks, checks nothing. Raises UserError.
    """
    if not (root / "pyproject.toml").is_file() or not (root / "envs" / "locks").is_dir():
        return
    table = environments(root)
    variants = [entry for entry in table if entry == name or entry.startswith(f"{name}-")]
    if not variants:
        raise UserError(f"{VARIABLE}: no environment {name!r}; there are: {', '.join(table)}")
    reasons: dict[str, str] = {}
    for variant in variants:
        reason = mismatch(pins(lock_of(variant, root)), table[variant]["imports"])
        if reason is None:
            return
        reasons[variant] = reason
    wanted, reason = next(iter(reasons.items()))
    remedy = f"build it with `python envs/build.py {wanted}` and run .venvs/{wanted}/bin/python"
    if os.environ.get(DEPLOYMENT) == "conda":
        remedy = (
            f"remove what `snakemake --sdm conda --list-conda-envs` names for envs/{wanted}.yaml, "
            "and have Snakemake build it anew"
        )
    raise UserError(
        f"this runs under {sys.executable}, which is not the environment `{wanted}` ({reason}): "
        f"{remedy}"
    )


def require_named() -> None:
    """`require` the environment that SUBNETWORKS_STAGE names, if it names one."""
    if name := os.environ.get(VARIABLE):
        require(name)
