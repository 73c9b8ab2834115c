"""JSON schemas and tables of all options, made of the settings models."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.files import write_json
from subnetworks.core.validation import SettingsModel
from subnetworks.evaluation.machine import Serving
from subnetworks.experiment import models
from subnetworks.experiment.replicates import Expanded
from subnetworks.training.data.sources import Extraction
from subnetworks.training.settings import Settings

SCHEMAS: dict[str, type[SettingsModel]] = {
    "experiment": models.ExperimentFile,
    "config": models.Configuration,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of `experiment` or `config`.

    A run may also be `like` another, and then lack what the other has; so may an experiment, which
    can leave out what the other has by an empty entry.
    """
    found: dict[str, Any] = _loose(SCHEMAS[name].model_json_schema())
    if name == "experiment":
        del found["required"]
        for part in (found, found["$defs"]["Sections"]):
            for section in models.SECTIONS:
                entries = part["properties"][section].get("patternProperties", {})
                for pattern, entry in entries.items():
                    entries[pattern] = {"anyOf": [entry, {"type": "null"}]}
    for part in found.get("$defs", {}).values():
        if "algorithm" in part.get("properties", {}) and "init" in part["properties"]:
            part["properties"] |= Expanded.model_json_schema()["properties"]
            part.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _loose(part: Any) -> Any:
    """`oneOf` as `anyOf`: a run that is `like` another fits the settings of several algorithms."""
    if isinstance(part, Mapping):
        names = {"oneOf": "anyOf"}
        return {names.get(key, key): _loose(value) for key, value in part.items()}
    return [_loose(item) for item in part] if isinstance(part, list) else part


def write(folder: Path) -> list[Path]:
    """Write all schemas into a folder; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.schema.json" for name in SCHEMAS]
    for file, name in zip(files, SCHEMAS, strict=True):
        write_json(file, schema(name))
    return files


def tables(name: str) -> str:
    """All options of `experiment` or `config` in Markdown, a table for every kind of entry."""
    entries = {"experiment": _of_experiment, "config": _of_config}[name]()
    return "\n\n".join(_table(title, model, left_out) for title, model, left_out in entries)


def _of_config() -> Iterator[tuple[str, type[SettingsModel], frozenset[str]]]:
    yield "config.yaml", models.Configuration, frozenset()
    yield "accelerators", models.Machine, frozenset()
    yield "accelerators: evaluation", Serving, frozenset()


def _of_experiment() -> Iterator[tuple[str, type[SettingsModel], frozenset[str]]]:
    yield "sections", models.ExperimentFile, frozenset()
    every = frozenset(Settings.model_fields) | {"epochs", "warmup_ratio", "init", "data", "mask"}
    sections: dict[str, Mapping[str, type[SettingsModel]]] = {
        "checkpoints": models.CHECKPOINTS,
        "datasets, make": models.MADE_DATA,
        "datasets": models.DATASETS,
    }
    for title, kinds in sections.items():
        for name, model in kinds.items():
            yield f"{title}: {name}", model, frozenset()
    yield "datasets: answer", Extraction, frozenset()
    some = next(iter(models.RUNS.values()))
    own = frozenset(some.model_fields) - every
    yield "runs: of others", Expanded, frozenset()
    yield "runs: every algorithm", some, own
    for name, run in models.RUNS.items():
        yield f"runs: {name}", run, every - {"algorithm"}
    yield "updates", models.Update, frozenset()
    for name, source in models.MASKS.items():
        yield f"masks: {name}", source, frozenset()
        value = source.model_fields[name].annotation
        if isinstance(value, type) and issubclass(value, SettingsModel):
            yield f"masks: {name}, its keys", value, frozenset()
    yield "overlaps", models.Overlap, frozenset()
    yield "agreements", models.Agreement, frozenset()
    yield "benchmarks", models.Benchmark, frozenset()
    yield "evaluation", models.Evaluation, frozenset()


def _table(title: str, model: type[SettingsModel], left_out: frozenset[str]) -> str:
    described = model.model_json_schema()
    lines = [f"### {title}", "", f"{' '.join((model.__doc__ or '').split())}", ""]
    lines += ["| key | values | default | |", "|---|---|---|---|"]
    for name, entry in model.model_fields.items():
        if name in left_out:
            continue
        kind = _values(described["properties"][name], described.get("$defs", {}))
        needed = entry.is_required()
        default = entry.get_default(call_default_factory=True)
        unset = needed or default is None or isinstance(default, SettingsModel)
        written = "needed" if needed else "" if unset else f"`{json.dumps(default)}`"
        lines.append(f"| `{name}` | {kind} | {written} | {entry.description or ''} |")
    return "\n".join(lines)


def _values(part: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """What a key takes, in a few words."""
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{choice}`" for choice in part["enum"])
    if "anyOf" in part:
        given = [_values(one, defs) for one in part["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(given))
    if "$ref" in part or "oneOf" in part:
        return "keys"
    bounds = [
        f"{sign} {part[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in part
    ]
    words = {"integer": "whole number", "string": "text", "boolean": "true, false"}
    words |= {"array": "list", "object": "keys"}
    kind = words.get(part.get("type", ""), part.get("type", "anything"))
    return " ".join([kind, ", ".join(bounds)]).strip()
