"""Task files for lm-eval: a task's definition with other rows and settings."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml

from subnetworks.core.errors import UserError
from subnetworks.evaluation.rows import Files, dataset, read
from subnetworks.evaluation.settings import Settings

_MARK = "# Written by subnetworks evaluate."


class _Dumper(yaml.SafeDumper):
    """Writes a function as lm-eval finds it again: by its module and name."""


_Dumper.add_representer(
    FunctionType,
    lambda dumper, found: dumper.represent_scalar(
        "!function", f"{found.__module__}.{found.__qualname__}"
    ),
)


def stock_folder() -> Path:
    """Where the installed lm-eval keeps its tasks, found without importing it."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError("lm_eval is not installed here; this verb runs in the evaluate environment")
    return Path(found.submodule_search_locations[0]) / "tasks"


def is_own(file: Path) -> bool:
    """Whether `write` wrote a file."""
    try:
        with open(file, encoding="utf-8") as lines:
            return file.suffix == ".yaml" and lines.readline() == f"{_MARK}\n"
    except (OSError, ValueError):
        return False


def write(
    folder: Path, benchmark: str, settings: Settings, files: Files | None, seed: int
) -> dict[str, tuple[str, int]]:
    """Write one YAML file per part of the benchmark and answer to each question into `folder`.

    Parts are the categories of a benchmark that has them; those without rows are left out. Each of
    several samples is a task of its own with its own sampling seed (`seed`, `seed` + 1, …), so that
    the stock filters and metrics grade every one of them.

    Args:
        folder: where the files go.
        benchmark: the benchmark's name, the beginning of each task's name.
        settings: how it is asked.
        files: its local rows; None reads the Hub.
        seed: of the sampling.

    Returns:
        task name -> (part, number of the sample).
    """
    task = settings.definition
    present = None
    if files is not None and len(task.definitions) > 1:
        present = {str(row[str(task.groups)]).replace(" ", "_") for row in read(files.test, task)}
        if unknown := sorted(present - task.definitions.keys()):
            raise UserError(
                f"{files.test}: {task.groups} {', '.join(map(repr, unknown))}: "
                f"{task.name} has none of that name"
            )
    written = {}
    for part, definition in task.definitions.items():
        if present is not None and part not in present:
            continue
        for sample in range(settings.samples):
            name = "-".join(
                [benchmark, *([part] if part else []), *([str(sample)] if sample else [])]
            )
            content = _content(name, definition, settings, files, seed + sample)
            text = yaml.dump(content, Dumper=_Dumper)
            (folder / f"{name}.yaml").write_text(f"{_MARK}\n{text}", encoding="utf-8")
            written[name] = (part, sample)
    return written


def _content(
    name: str,
    definition: str | Mapping[str, Any],
    settings: Settings,
    files: Files | None,
    seed: int,
) -> dict[str, Any]:
    task = settings.definition
    if isinstance(definition, str):
        definition = {"include": str(stock_folder() / definition)}
    content: dict[str, Any] = {**definition, "task": name, "num_fewshot": settings.shots}
    if files is not None:
        rows = {"test": str(files.test.resolve())}
        if files.shots is not None:
            rows[str(task.shots_split)] = str(files.shots.resolve())
        content["custom_dataset"] = dataset
        content["dataset_kwargs"] = {"task": task.name, "files": rows}
        content |= {"test_split": "test", "training_split": None, "validation_split": None}
        if files.shots is None:
            content["fewshot_split"] = None
    else:
        content["dataset_kwargs"] = {"revision": settings.revision}
    if settings.instruction:
        # As data, so that braces in it are no template.
        problem = "{{" + str(task.problem) + "}}"
        content["doc_to_text"] = problem + "{% raw %}" + settings.instruction + "{% endraw %}"
    if not task.chooses:
        content["generation_kwargs"] = {
            **_generation(definition),
            "do_sample": settings.temperature > 0,
            "temperature": settings.temperature,
            "max_gen_toks": settings.max_tokens,
        }
        if settings.temperature > 0:
            content["generation_kwargs"]["seed"] = seed
    return content


def _generation(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition's own `generation_kwargs` (where an answer ends), which ours would replace."""
    if "generation_kwargs" in definition:
        return dict(definition["generation_kwargs"])
    if "include" not in definition:
        return {}

    class Loader(yaml.SafeLoader):
        """Reads a definition without importing the functions it names."""

    Loader.add_constructor("!function", lambda loader, node: None)
    path = Path(definition["include"])
    content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if "include" in content:
        content["include"] = str(path.parent / content["include"])
    return _generation(content)
