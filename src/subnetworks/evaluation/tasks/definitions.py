"""Task files for lm-eval: the stock definition, included, with other rows and settings."""

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from subnetworks.core.errors import UserError
from subnetworks.evaluation.settings import Settings
from subnetworks.evaluation.tasks.rows import Files, read

_MARK = "# Written by subnetworks evaluate."
_HERE = Path(__file__).parent
_READER = "subnetworks.evaluation.tasks.rows.dataset"


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
        if unknown := sorted(present - {part for part, _ in task.definitions}):
            raise UserError(
                f"{files.test}: {task.groups} {', '.join(map(repr, unknown))}: "
                f"{task.name} has none of that name"
            )
    written = {}
    for part, definition in task.definitions:
        if present is not None and part not in present:
            continue
        for sample in range(settings.samples):
            name = "-".join(
                [benchmark, *([part] if part else []), *([str(sample)] if sample else [])]
            )
            text = yaml.safe_dump(_content(name, definition, settings, files, seed + sample))
            if files is not None:
                text += f"custom_dataset: !function {_READER}\n"
            (folder / f"{name}.yaml").write_text(f"{_MARK}\n{text}", encoding="utf-8")
            written[name] = (part, sample)
    return written


def _content(
    name: str, definition: str, settings: Settings, files: Files | None, seed: int
) -> dict[str, Any]:
    task = settings.definition
    own = definition.startswith("./")
    content: dict[str, Any] = {
        "include": str(_HERE / definition[2:] if own else stock_folder() / definition),
        "task": name,
        "num_fewshot": settings.shots,
    }
    if files is not None:
        rows = {"test": str(files.test.resolve())}
        if files.shots is not None:
            rows[str(task.shots_split)] = str(files.shots.resolve())
        content["dataset_kwargs"] = {"task": task.name, "files": rows}
        content |= {"test_split": "test", "training_split": None, "validation_split": None}
        if files.shots is None:
            content["fewshot_split"] = None
    else:
        content["dataset_kwargs"] = {"revision": settings.revision}
    if settings.instruction:
        # As data, so that braces in it are no template.
        content["doc_to_text"] = "{{problem}}{% raw %}" + settings.instruction + "{% endraw %}"
    if not task.chooses:
        content["generation_kwargs"] = {
            **_generation(content["include"]),
            "do_sample": settings.temperature > 0,
            "temperature": settings.temperature,
            "max_gen_toks": settings.max_tokens,
        }
        if settings.temperature > 0:
            content["generation_kwargs"]["seed"] = seed
    return content


def _generation(path: str) -> dict[str, Any]:
    """The definition's own `generation_kwargs` (where an answer ends), which ours would replace."""

    class Loader(yaml.SafeLoader):
        """Reads a definition without importing the functions it names."""

    Loader.add_constructor("!function", lambda loader, node: None)
    content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    if "generation_kwargs" in content:
        return dict(content["generation_kwargs"])
    if "include" in content:
        return _generation(str(Path(path).parent / content["include"]))
    return {}
