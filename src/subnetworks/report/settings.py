"""How every run was trained, as the records beside the trained checkpoints have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnetworks.core.results import by_hand
from subnetworks.report.origins import read_record

_SHOWN = (
    "algorithm seed steps batch_size samples_per_prompt learning_rate schedule warmup_steps "
    "weight_decay"
).split()
# How a run is carried out, not what it computes; or shown elsewhere.
_UNTOLD = set(_SHOWN) | {"micro_batch_size", "save_every", "optimiser_state", "trajectory_every"}
_NO_MASK = "–"


@dataclass(frozen=True)
class RunSettings:
    """One run.

    Attributes:
        name, init, data, mask: as the experiment calls them; mask is `–` for a full run.
        cells: the settings that all algorithms share, by name, as text.
        further: the algorithm's own, `name value` each.
        seconds: wall time.
    """

    name: str
    init: str
    data: str
    mask: str
    cells: Mapping[str, str]
    further: tuple[str, ...]
    seconds: float


def read_settings(results: Path) -> list[RunSettings]:
    """The runs whose checkpoints lie in `results`, unrestricted ones before those within a mask."""
    runs = []
    for path in sorted(results.glob("checkpoints/*/manifest.json.meta.json")):
        record = read_record(path)
        settings = record.get("settings")
        if "train" in record["command"][1:2] and isinstance(settings, Mapping):
            runs.append(_run(path.parent.name, record, settings))
    return sorted(runs, key=lambda run: (run.mask != _NO_MASK, run.name))


def _run(name: str, record: Mapping[str, Any], settings: Mapping[str, Any]) -> RunSettings:
    def given(option: str) -> str:
        command = record["command"]
        if option not in command[:-1]:
            return _NO_MASK
        return Path(command[command.index(option) + 1]).name.removesuffix(".safetensors")

    further = (
        f"{key} {_shown(value)}"
        for key, value in settings.items()
        if key not in _UNTOLD and value not in (None, {})
    )
    return RunSettings(
        name,
        given("--init"),
        given("--data"),
        given("--mask"),
        {key: _shown(settings.get(key)) for key in _SHOWN},
        tuple(further),
        float(record.get("wall_time_s", 0)),
    )


def _shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return by_hand(value)
        case list():
            return ", ".join(_shown(part) for part in value)
        case _:
            return str(value)
