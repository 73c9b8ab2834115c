"""Read an experiment's finished results; the only way tables and figures see the world."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnetworks.core import outputs, provenance
from subnetworks.core.errors import UserError

if TYPE_CHECKING:
    import polars

# Folders of an experiment's results that tables, figures and reports go to, beside what they read.
_SHOWN = ("tables", "figures", "logs")


def stages(results: Path, *without: str) -> list[Path]:
    """The folders in which the stages of an experiment have left results."""
    if not results.is_dir():
        return []
    return [
        path for path in sorted(results.iterdir()) if path.is_dir() and path.name not in without
    ]


@dataclass(frozen=True)
class Context:
    """Where one table or figure finds its numbers.

    Attributes:
        results: the experiment's folder, `results/<experiment>`.
        published: the folder with the paper's numbers, `workflow/published`.
        spec: what the experiment file asks this artefact to show.
        turns: the same at further seeds.
        in_pairs: whether it compares seeds with each other.
    """

    results: Path
    published: Path
    spec: Mapping[str, Any]
    turns: Sequence[Mapping[str, Any]] = ()
    in_pairs: bool = False

    def rows(self, section: str) -> list[dict[str, Any]]:
        """The entries of `spec[section]`; none where nothing is asked for."""
        rows: list[dict[str, Any]] = self.spec.get(section, [])
        return rows

    def update(self, name: str) -> dict[str, Any]:
        """How far an update changed the weights (`updates/<name>.json`)."""
        path = self.results / "updates" / f"{name}.json"
        return _json(path, "measure", "n", "equal", "bit_equal", "isclose_bf16", "sparsity")

    def prediction(self, run: str, batches: int | None = None) -> dict[str, Any]:
        """How sparse a run was expected to be (`predictions/<run>.json`), also from gradients of
        its first batches (`predictions/<run>/<batches>.json`)."""
        file = f"{run}.json" if batches is None else f"{run}/{batches}.json"
        path = self.results / "predictions" / file
        return _json(path, "predict", "n", "sparsity", "without_embeddings", "two_runs", "steps")

    def update_tensors(self, name: str) -> "polars.DataFrame":
        """The same per tensor, one row each (`updates/<name>.parquet`)."""
        path = self.results / "updates" / f"{name}.parquet"
        return _parquet(path, "measure", "layer", "matrix", "n", "equal", "isclose_bf16_1e-5")

    def rank(self, name: str) -> dict[str, Any]:
        """Rank of an update in sum (`updates/<name>.rank.json`)."""
        return _json(self.results / "updates" / f"{name}.rank.json", "rank", "mean_rank")

    def rank_matrices(self, name: str) -> "polars.DataFrame | None":
        """Rank of an update per matrix, or None where it was not written."""
        path = self.results / "updates" / f"{name}.rank.parquet"
        return _parquet(path, "rank", "rank_fraction") if path.exists() else None

    def rotation_matrices(self, name: str) -> "polars.DataFrame":
        """How far an update turned each matrix (`updates/<name>.rotation.parquet`)."""
        path = self.results / "updates" / f"{name}.rotation.parquet"
        return _parquet(path, "rotate", "matrix", "spectral_drift", "left_angle_max")

    def trajectory(self, run: str) -> dict[str, Any]:
        """What became of a run's weights, and its saved steps (`trajectories/<run>.json`)."""
        path = self.results / "trajectories" / f"{run}.json"
        return _json(path, "follow_trajectory", "n", "never", "cancelled", "final", "steps")

    def synchronisation(self, run: str) -> dict[str, Any]:
        """What sending a run's weights step by step takes (`synchronisation/<run>.json`)."""
        path = self.results / "synchronisation" / f"{run}.json"
        return _json(path, "synchronise", "n", "whole_bytes", "changed_share", "bytes", "foreseen")

    def overlap(self, name: str) -> dict[str, Any]:
        """Two masks compared (`overlaps/<name>.json`)."""
        path = self.results / "overlaps" / f"{name}.json"
        return _json(path, "overlap", "n", "changed", "intersection", "o1", "o2", "chance")

    def ranking(self, overlap: str) -> dict[str, Any]:
        """How well an overlap's second mask foresaw its first (`rankings/<name>.json`)."""
        path = self.results / "rankings" / f"{overlap}.json"
        return _json(path, "ranking", "average_precision", "sweep")

    def transfer(self, name: str) -> dict[str, dict[str, Any]]:
        """How much of an update lies within each mask, by its name (`transfers/<name>.json`)."""
        path = self.results / "transfers" / f"{name}.json"
        rows = _json(path, "transfer", "masks")["masks"]
        return {row["mask"].split("/")[-1].split(".")[0]: row for row in rows}

    def score(self, checkpoint: str, benchmark: str) -> dict[str, Any]:
        """One score with its standard error (`evaluation/<checkpoint>/<benchmark>.json`)."""
        path = self.results / "evaluation" / checkpoint / f"{benchmark}.json"
        return _json(path, "evaluate", "score", "stderr", "n")

    def skipped(self, checkpoint: str, benchmark: str) -> str | None:
        """Why a checkpoint was not scored on a benchmark, if that is so."""
        path = self.results / "evaluation" / checkpoint / "scores.json"
        return _json(path, "evaluate").get("skipped", {}).get(benchmark) if path.exists() else None

    def samples(self, checkpoint: str, benchmark: str) -> "polars.DataFrame | None":
        """The answers behind a score, one row per question, or None where they were not kept."""
        path = self.results / "evaluation" / checkpoint / f"{benchmark}.samples.parquet"
        columns = ("doc_id", "row", "group", "gold", "correct")
        return _parquet(path, "evaluate", *columns) if path.exists() else None

    def log(self, run: str) -> "polars.DataFrame":
        """A run's log, one row per training step, all columns numbers (`runs/<run>/log.csv`)."""
        import polars

        frame = _csv(self.results / "runs" / run / "log.csv", "train", "step", "loss")
        return frame.with_columns(polars.all().cast(polars.Float64)).sort("step")

    def paper(self, name: str) -> "polars.DataFrame":
        """The paper's values (`workflow/published/<name>.csv`)."""
        import polars

        path = self.published / f"{name}.csv"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; --published names the folder workflow/published"
            )
        return polars.read_csv(path, schema_overrides={"tolerance": polars.String})

    def remarks(self, artefact: str) -> list[tuple[str, str]]:
        """(row, remark): what belongs with the paper's values of an artefact."""
        import polars

        frame = self.paper("remarks").filter(polars.col("artefact") == artefact)
        return [(row or "", remark) for _, row, remark in frame.iter_rows()]


def compared_share_of(found: Mapping[str, Any]) -> float | None:
    """The share of all entries (of ranks: of all matrices) that a result is about, in per cent."""
    share = found.get("compared_share")
    return None if share is None else 100 * float(share)


def claim_shown(
    verb: str, context: Context, folder: Path, name: str, suffixes: Sequence[str]
) -> list[outputs.Output]:
    """`outputs.claim` for the files of a table or figure, which are recorded beside its CSV."""
    files = [(suffix, folder / f"{name}{suffix}") for suffix in suffixes]
    return outputs.claim(
        verb,
        reads=[*stages(context.results, *_SHOWN), context.published],
        files=files,
        together=folder / f"{name}.csv",
    )


def by_hand(value: float) -> str:
    """A number as it is written by hand: 0.04, but 1.5e-6 and 5e-4."""
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def label_of(entry: Mapping[str, Any]) -> str:
    """What an update is called in a table or figure: its `label`, else its algorithm and name."""
    name, algorithm = str(entry["update"]), entry.get("algorithm")
    if "label" in entry:
        return str(entry["label"])
    if not algorithm or algorithm.lower() == name.lower():
        return str(algorithm or name)
    return f"{algorithm} ({name})"


def _present(path: Path, rule: str) -> None:
    if not path.exists():
        raise UserError(
            f"{path}: no such file; rule '{rule}' makes it: snakemake --cores all {path}"
        )
    provenance.check(path)


def _complete(path: Path, rule: str, keys: tuple[str, ...], found: object) -> None:
    missing = [key for key in keys if key not in found]  # type: ignore[operator]
    if missing:
        raise UserError(
            f"{path}: no {', '.join(repr(key) for key in missing)} in it; "
            f"write it anew: snakemake --cores all --forcerun {rule} {path}"
        )


def _json(path: Path, rule: str, *keys: str) -> dict[str, Any]:
    _present(path, rule)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it and run again") from error
    _complete(path, rule, keys, value)
    return value


def _parquet(path: Path, rule: str, *columns: str) -> "polars.DataFrame":
    import polars

    _present(path, rule)
    try:
        frame = polars.read_parquet(path)
    except polars.exceptions.PolarsError as error:
        raise UserError(f"{path}: not Parquet ({error}); remove it and run again") from error
    _complete(path, rule, columns, frame.columns)
    return frame


def _csv(path: Path, rule: str, *columns: str) -> "polars.DataFrame":
    import polars

    _present(path, rule)
    try:
        frame = polars.read_csv(path, infer_schema_length=None)
    except polars.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a table ({error}); remove it and run again") from error
    _complete(path, rule, columns, frame.columns)
    return frame
