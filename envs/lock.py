#!/usr/bin/env python3
"""Resolve pyproject.toml into locks and conda files: `python envs/lock.py [NAME …] [--upgrade]`.

For each environment, `locks/<name>.txt` (pip's format: every version with its hashes, no address of
any package source) and for each stage `<name>.yaml`, the same pins as a conda environment file.
A pin stays as it is unless pyproject.toml or --upgrade asks for another.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import build
import sources
from subnetworks.core.environment import environments, pins
from subnetworks.core.errors import UserError

PLATFORM = "x86_64-manylinux_2_28"
# Not a stage: nothing in the workflow runs in them.
NO_STAGES = {"snakemake", "lint", "docs", "parity", "coverage"}
HEADER = "# Written by envs/lock.py from pyproject.toml; change that and run `make lock`.\n"
HASHLESS = """\
# No hashes for a version with a local part (+cpu): it comes from PyTorch's index or from a mirror
# of it, and builds of one version may differ between them.
"""

# Of the script that runs after a conda file.
ALONE = "# What depends on packages that are left out: only here can pip be told so.\n"


def compile_arguments(entry: Mapping[str, Any]) -> list[str]:
    """What `uv pip compile` is to resolve for one environment."""
    arguments = [f"--group={group}" for group in entry.get("groups", [])]
    if "extras" in entry:
        arguments += ["pyproject.toml", *(f"--extra={extra}" for extra in entry["extras"])]
    return arguments


def without_local_hashes(lock: str) -> str:
    """Drop the hashes of versions with a local part (`+cpu`)."""
    return re.sub(
        r"^(\S+==\S+\+\S+)((?: ; [^\\\n]+)?)(?: \\\n    --hash=\S+)+",
        r"\1\2",
        lock,
        flags=re.MULTILINE,
    )


def resolve(name: str, entry: Mapping[str, Any], environment: Mapping[str, str], uv: str) -> None:
    """Write `locks/<name>.txt`; `environment` may ask for an upgrade (UV_UPGRADE)."""
    lock = build.ENVS / "locks" / f"{name}.txt"
    lock.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        if lock.exists():
            output.write_text(lock.read_text())
        excludes = Path(folder) / "excludes.txt"
        excludes.write_text("\n".join(entry.get("exclude", [])))
        command = [uv, "pip", "compile", "--quiet", *compile_arguments(entry)]
        command += ["--python-version=3.11", f"--python-platform={PLATFORM}"]
        command += ["--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--excludes", str(excludes), "--output-file", str(output)]
        build.run(command, environment)
        text = without_local_hashes(output.read_text())
    lock.write_text(HEADER + (HASHLESS if "+cpu" in text else "") + text)


def conda_files(name: str, entry: Mapping[str, Any], locked: Mapping[str, str]) -> dict[str, str]:
    """The conda file, and the script run after it if pip needs help, by file name."""
    alone = [package for package in entry.get("alone", []) if package in locked]
    # By name, whatever further channels conda is configured with.
    lines = [HEADER.strip(), "channels:", "  - conda-forge", "dependencies:"]
    lines += ["  - conda-forge::python=3.11", "  - conda-forge::pip", "  - pip:"]
    if locked.get("torch", "").endswith("+cpu"):
        lines.append(f"      - --extra-index-url {build.PYTORCH_CPU_INDEX}")
    lines += [f"      - {package}=={locked[package]}" for package in locked if package not in alone]
    files = {f"{name}.yaml": "\n".join(lines) + "\n"}
    if alone:
        install = " ".join(f"{package}=={locked[package]}" for package in alone)
        script = f"#!/usr/bin/env bash\n{HEADER}{ALONE}"
        script += f"set -euo pipefail\npython -m pip install --no-deps {install}\n"
        if build.ALIAS[0] in locked:
            alias = (build.ENVS / "alias_distribution.py").read_text()
            script += f"python - {' '.join(build.ALIAS)} <<'END'\n{alias}END\n"
        files[f"{name}.post-deploy.sh"] = script
    return files


def check_conda_pins(name: str, text: str, environment: Mapping[str, str], uv: str) -> None:
    """Let a resolver confirm that pip finds the conda file's pins consistent and complete."""
    wanted = re.findall(r"^      - (\S+==\S+)$", text, flags=re.MULTILINE)
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"]
    command += ["--python-version=3.11", f"--python-platform={PLATFORM}"]
    done = subprocess.run(
        command, input="\n".join(wanted), capture_output=True, text=True, env=dict(environment)
    )
    if done.returncode:
        raise UserError(f"{name}.yaml: its pins contradict each other:\n{done.stderr}")
    surplus = {line.split(" ;")[0] for line in done.stdout.split("\n") if line} - set(wanted)
    if surplus:
        raise UserError(
            f"{name}.yaml: its packages pull in {', '.join(sorted(surplus))}: name those that do "
            f"in `alone` of tool.subnetworks.environments.{name}"
        )


def main() -> int:
    """Parse the command line, lock, and write the conda files."""
    parser = argparse.ArgumentParser(description=__doc__)
    table = environments()
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(table)}; default all"
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    arguments = parser.parse_args()
    environment = sources.uv_environment()
    if arguments.upgrade:
        environment["UV_UPGRADE"] = "1"
    try:
        uv = build.find_uv(environment, build.ROOT / ".venvs" / ".uv")
        for name in arguments.names or table:
            print(f"locking {name}", file=sys.stderr, flush=True)
            resolve(name, table[name], environment, uv)
            if name in NO_STAGES:
                continue
            files = conda_files(name, table[name], pins(build.ENVS / "locks" / f"{name}.txt"))
            check_conda_pins(name, files[f"{name}.yaml"], environment, uv)
            for file, text in files.items():
                (build.ENVS / file).write_text(text)
    except (UserError, KeyError) as error:
        print(f"envs/lock.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
