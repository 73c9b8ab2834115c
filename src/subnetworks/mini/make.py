"""Everything that can be made, by name: where settings become a finished folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subnetworks.core.datasets import Splits, write
from subnetworks.core.errors import UserError
from subnetworks.core.outputs import claim
from subnetworks.core.outputs import folder as made_folder
from subnetworks.core.provenance import recorded
from subnetworks.core.validation import parse
from subnetworks.mini import base, benchmarks, datasets, foreign, preferences
from subnetworks.mini.settings import (
    BaseSettings,
    BenchmarkSettings,
    DemonstrationSettings,
    ForeignSettings,
    PreferenceSettings,
    ProblemSettings,
    Settings,
)

DATASETS: dict[str, tuple[type[Settings], Callable[[Any], Splits]]] = {
    "demonstrations": (DemonstrationSettings, datasets.demonstrations),
    "problems": (ProblemSettings, datasets.problems),
    "foreign_demonstrations": (ForeignSettings, foreign.demonstrations),
    "foreign_preferences": (ForeignSettings, foreign.preferences),
}
BENCHMARKS: dict[str, Callable[[BenchmarkSettings], Splits]] = {
    "math500": benchmarks.math500,
    "agieval": benchmarks.agieval,
    "mmlu_pro": benchmarks.mmlu_pro,
}
KINDS = ("base", *DATASETS, "preferences", *BENCHMARKS)


def _quiet() -> None:
    """Our own bars say what takes long; transformers' bars for small files only clutter the log."""
    from transformers.utils import logging

    bars: Any = logging
    bars.disable_progress_bar()


def make(
    kind: str, output: Path, values: Mapping[str, Any], policy: Path | None = None
) -> Mapping[str, Any]:
    """Make one thing of the miniature in the folder `output`, replacing what it had made there.

    Args:
        kind: one of `KINDS`.
        output: becomes a checkpoint folder (`base`), a folder of `train.parquet` and perhaps
            `test.parquet` (data sets), or one of JSON lines (benchmarks); each with a
            `manifest.json`. It appears as a whole, once it is complete.
        values: settings, by name; what is missing has a default.
        policy: the checkpoint that preferences are sampled from.

    Returns:
        The settings used.

    Raises:
        UserError: an unknown kind or setting, a value out of range, a policy that is missing or
            not wanted.
    """
    if kind not in KINDS:
        raise UserError(f"make: unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
    if (policy is None) == (kind == "preferences"):
        raise UserError(
            "make preferences: --policy names the checkpoint to sample from, and is missing"
            if policy is None
            else f"make {kind}: --policy is for preferences only"
        )
    claim("make", reads=[policy], folders=[output])
    _quiet()
    settings: Settings
    with recorded(output / "manifest.json") as facts:
        with made_folder(output, "make") as folder:
            if kind == "base":
                settings = parse(BaseSettings, values, f"make {kind}")
                facts["training"] = base.make(settings, folder, name=output.absolute().name)
            elif policy is not None:
                settings = parse(PreferenceSettings, values, f"make {kind}")
                facts["policy"] = str(policy)
                splits = preferences.preferences(settings, policy)
                write(splits, folder, name=kind, kind="make", settings=settings.model_dump())
            elif kind in DATASETS:
                settings_class, build = DATASETS[kind]
                settings = parse(settings_class, values, f"make {kind}")
                write(
                    build(settings), folder, name=kind, kind="make", settings=settings.model_dump()
                )
            else:
                settings = parse(BenchmarkSettings, values, f"make {kind}")
                write(
                    BENCHMARKS[kind](settings),
                    folder,
                    name=kind,
                    kind="make",
                    settings=settings.model_dump(),
                    suffix=".jsonl",
                )
        facts.update(kind=kind, seed=settings.seed, settings=settings.model_dump())
    return settings.model_dump()
