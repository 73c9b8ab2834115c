"""All that a report says, gathered from an experiment's folder and not yet laid out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from subnetworks import artefacts
from subnetworks.artefacts import sheet
from subnetworks.artefacts.claims import Claim, Controlled
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import FOLDER, Published
from subnetworks.core.errors import UserError
from subnetworks.report.captions import Caption, to_html
from subnetworks.report.held_out import HeldOut, read_held_out
from subnetworks.report.origins import Origins, read_origins
from subnetworks.report.settings import RunSettings, read_settings
from subnetworks.report.times import Times, read_times


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Attributes:
        name: its target, such as `table_4_overlap`.
        is_control: whether it is a control of ours, not one of the paper's.
        title: its heading.
        caption: what it shows and by which definitions.
        files: those that lie beside the report, the CSV first, relative to it.
        said: findings from its numbers, one sentence each.
    """

    name: str
    is_control: bool
    title: str
    caption: Caption
    files: tuple[Path, ...]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Table(Artefact):
    """A table, formatted."""

    sheet: sheet.Sheet


@dataclass(frozen=True)
class Drawing(Artefact):
    """A figure: its picture and what it shows in words."""

    picture: Path
    alt: str


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        results: the folder, `results/<experiment>`.
        found: the paper's claims, each compared with our numbers.
        controlled: what remains of the effects under their controls.
        drawings: figures, then those of controls.
        tables: tables, then those of controls.
        runs: every training with its settings.
        held_out: what trainings scored on rows held out.
        origins: by what code, with which packages, on which machine, how long.
        times: on what the time was spent.
    """

    results: Path
    found: list[Claim]
    controlled: list[Controlled]
    drawings: list[Drawing]
    tables: list[Table]
    runs: list[RunSettings]
    held_out: list[HeldOut]
    origins: Origins
    times: Times

    @property
    def title(self) -> str:
        """The heading of the whole."""
        return f"{self.results.name}: which of the paper's effects appear"

    @property
    def said(self) -> list[tuple[Artefact, str]]:
        """What the controls there are say, a sentence each."""
        return [(a, words) for a in (*self.drawings, *self.tables) for words in a.said]

    def count(self, verdict: str) -> int:
        """How many claims have this verdict."""
        return sum(finding.appears == verdict for finding in self.found)


def gather(results: Path, published: Path = FOLDER) -> Report:
    """Read a finished experiment, `results/<experiment>`, and the paper's numbers.

    Raises:
        UserError: there is no table at all, or one that this version did not write.
    """
    paper = Published(published)
    found, controlled = judged(results, paper)
    return Report(
        results,
        found,
        controlled,
        list(_drawings(results, paper)),
        list(_tables(results, paper)),
        read_settings(results),
        read_held_out(results),
        read_origins(results),
        read_times(results),
    )


def judged(results: Path, paper: Published) -> tuple[list[Claim], list[Controlled]]:
    """What all finished artefacts say of the paper's claims, and what controls leave of them.

    Raises:
        UserError: there is not a single table.
    """
    if not any(
        (results / "tables" / f"{table.name}.csv").exists()
        for table in artefacts.of_kind(artefacts.Table)
    ):
        raise UserError(f"{results / 'tables'}: no table there; make them: snakemake --cores all")
    claims: list[Claim] = []
    controlled: list[Controlled] = []
    for made in sorted(artefacts.every().values(), key=lambda made: made.place):
        ours = made.ours(results) if made.place else None
        if ours is not None:
            claims += made.claimed(ours, results, paper)
            controlled += made.controlled(ours)
    return claims, controlled


def _tables(results: Path, paper: Published) -> Iterator[Table]:
    for made in artefacts.of_kind(artefacts.Table):
        frame = made.read(results)
        if frame is not None:
            printed = made.sheet(frame, made.over(results), said=False)
            yield Table(*_shown(results, made, frame, paper), printed)


def _drawings(results: Path, paper: Published) -> Iterator[Drawing]:
    for made in artefacts.of_kind(artefacts.Figure):
        picture = results / "figures" / f"{made.name}.png"
        frame = made.read(results)
        if frame is not None and picture.exists():
            yield Drawing(*_shown(results, made, frame, paper), picture, made.alt)


def _shown(
    results: Path, made: artefacts.Artefact, frame: polars.DataFrame, paper: Published
) -> tuple[str, bool, str, Caption, tuple[Path, ...], tuple[str, ...]]:
    """What tables and figures have in common, in the order of `Artefact`."""
    files = (Path(made.kind) / f"{made.name}{suffix}" for suffix in made.suffixes)
    there = tuple(path for path in files if (results / path).exists() and path.suffix != ".png")
    caption, said = to_html(made.captioned(paper)), tuple(made.said(frame))
    return (made.name, made.is_control, made.title, caption, there, said)
