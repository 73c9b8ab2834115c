"""All that a report says, gathered from an experiment's folder and not yet laid out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import polars

from subnetworks import controlled, figures, findings, tables
from subnetworks.controlled import Controlled
from subnetworks.findings import Finding, read_table
from subnetworks.report.captions import Caption, read_caption
from subnetworks.report.origins import Origins, read_origins
from subnetworks.report.settings import RunSettings, read_settings
from subnetworks.report.times import Times, read_times
from subnetworks.tables import style


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Attributes:
        name: its target, such as `table_4_overlap`.
        is_control: whether it is a control of ours, not one of the paper's.
        title: its heading.
        caption: what it shows and by which definitions; empty without a caption file.
        files: those that lie beside the report, the CSV first, relative to it.
        said: what its module reads from its numbers, a sentence each.
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

    sheet: style.Sheet


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
        found: the paper's claims, each held against our numbers.
        controlled: what remains of the effects under their controls.
        drawings: figures, then those of controls.
        tables: tables, then those of controls.
        runs: every training with its settings.
        origins: by what code, with which packages, on which machine, how long.
        times: on what the time was spent.
    """

    results: Path
    found: list[Finding]
    controlled: list[Controlled]
    drawings: list[Drawing]
    tables: list[Table]
    runs: list[RunSettings]
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


def gather(results: Path, captions: Path | None = None) -> Report:
    """Read a finished experiment.

    Args:
        results: `results/<experiment>`.
        captions: the folder with a `<name>.rst` an artefact; without it there are no captions.

    Raises:
        UserError: there is no table at all, or one that this version did not write.
    """
    found = findings.collect(results)
    return Report(
        results,
        found,
        controlled.collect(results),
        list(_drawings(results, captions)),
        list(_tables(results, captions)),
        read_settings(results),
        read_origins(results),
        read_times(results),
    )


def _files(results: Path, section: str, name: str, *suffixes: str) -> tuple[Path, ...]:
    found = (Path(section) / f"{name}.{suffix}" for suffix in suffixes)
    return tuple(path for path in found if (results / path).exists())


def _tables(results: Path, captions: Path | None) -> Iterator[Table]:
    for name in tables.NAMES + tables.CONTROLS:
        frame = read_table(results, name)
        if frame is not None:
            module = tables.load(name)
            sheet = style.sheet(frame, module.TITLE, module.COLUMNS, module.NOTES)
            files = _files(results, "tables", name, "csv", "md", "tex")
            caption, is_control = read_caption(captions, name), name in tables.CONTROLS
            yield Table(name, is_control, module.TITLE, caption, files, _said(module, frame), sheet)


def _drawings(results: Path, captions: Path | None) -> Iterator[Drawing]:
    for name in figures.NAMES + figures.CONTROLS:
        picture = results / "figures" / f"{name}.png"
        if picture.exists():
            module = figures.load(name)
            files = _files(results, "figures", name, "csv", "pdf", "svg")
            said: tuple[str, ...] = ()
            if hasattr(module, "said"):
                drawn = results / "figures" / f"{name}.csv"
                said = _said(module, polars.read_csv(drawn, schema=module.SCHEMA))
            caption, is_control = read_caption(captions, name), name in figures.CONTROLS
            yield Drawing(
                *(name, is_control, module.TITLE, caption, files, said, picture, module.ALT)
            )


def _said(module: ModuleType, frame: polars.DataFrame) -> tuple[str, ...]:
    return tuple(module.said(frame)) if hasattr(module, "said") else ()
