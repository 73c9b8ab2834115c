"""What every artefact is: a table or a figure, its specification, what it reads and claims.

An artefact is one module of this package. It ends with `ARTEFACT`, a `Table` or a `Figure`, and is
found by that: there is no list of artefacts anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import Field, create_model

from subnetworks.artefacts import sheet as sheets
from subnetworks.artefacts import style, turns
from subnetworks.artefacts.claims import Claim, Controlled, of_all_seeds
from subnetworks.artefacts.lazy import polars
from subnetworks.artefacts.published import Published, Quotes
from subnetworks.artefacts.turns import FOLLOWED as FOLLOWED
from subnetworks.artefacts.turns import SUFFIX, MeanContext, Over
from subnetworks.core import provenance
from subnetworks.core.errors import UserError
from subnetworks.core.results import Context
from subnetworks.core.validation import Origin, Place, SettingsModel, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Names:
    """Marks a key under which an artefact names a thing of the experiment.

    Attributes:
        section: where the experiment has it, such as `updates`.
        reads: its results that the artefact reads, relative to the experiment's folder; `{}` is the
            thing's name.
    """

    section: str
    reads: tuple[str, ...] = ()


Update = Annotated[str, Names("updates", ("updates/{}.json",))]
Predicted = Annotated[str, Names("runs", ("predictions/{}.json", "updates/{}.json"))]
Overlap = Annotated[str, Names("overlaps", ("overlaps/{}.json",))]
Agreement = Annotated[str, Names("agreements")]
Scored = Annotated[str, Names("checkpoints", ("evaluation/{}/scores.json",))]
Logged = Annotated[str, Names("checkpoints", ("runs/{}/log.csv",))]
Followed = Annotated[str, Names(FOLLOWED, ("trajectories/{}.json",))]
Benchmark = Annotated[str, Names("benchmarks")]


class Specification(SettingsModel):
    """What an experiment says of an artefact, or of one of its rows.

    Keys that are left out are filled in with what the experiment says of the thing that the row is
    about, where it says anything: the first of `about` that the row has. Those in `needs` must then
    be there.
    """

    about: ClassVar[tuple[str, ...]] = ("agreement", "update", "run")
    needs: ClassVar[tuple[str, ...]] = ()

    def named(self) -> Iterator[tuple[str, Names, str]]:
        """Every (key, mark, name) of a thing of the experiment, nested rows' too."""
        for key, value in self:
            marks = _marks(type(self)).get(key, ())
            for one in _values(value):
                if isinstance(one, Specification):
                    yield from one.named()
                elif isinstance(one, str):
                    yield from ((key, mark, one) for mark in marks)

    def with_names(self, change: Callable[[str, str], str]) -> Specification:
        """The same with `change(section, name)` for the name of every thing of the experiment."""

        def inner(value: Any, marks: Sequence[Names]) -> Any:
            match value:
                case str():
                    return change(marks[0].section, value) if marks else value
                case list():
                    return [inner(one, marks) for one in value]
                case Mapping():
                    return {key: inner(one, marks) for key, one in value.items()}
                case Specification():
                    return value.with_names(change)
            return value

        marks = _marks(type(self))
        return self.model_copy(update={key: inner(v, marks.get(key, ())) for key, v in self})

    def lacking(self, place: Place = ()) -> Iterator[tuple[Place, str]]:
        """Where a key that is needed is neither given nor filled in."""
        yield from ((place, key) for key in self.needs if getattr(self, key) is None)
        for key, value in self:
            for number, one in enumerate(_values(value)):
                if isinstance(one, Specification):
                    inner = (number,) if isinstance(value, list) else ()
                    yield from one.lacking((*place, key, *inner))

    def filled(self, facts: Callable[[str, str], Mapping[str, Any]]) -> Specification:
        """The same with all that `facts(section, name)` says of the things that it is about."""

        def inner(value: Any) -> Any:
            if isinstance(value, list):
                return [inner(one) for one in value]
            return value.filled(facts) if isinstance(value, Specification) else value

        changes = {key: inner(value) for key, value in self}
        for key in self.about:
            if name := getattr(self, key, None):
                for mark in _marks(type(self))[key]:
                    for fact, value in facts(mark.section, name).items():
                        if fact in type(self).model_fields and getattr(self, fact) is None:
                            changes[fact] = value
                break
        return self.model_copy(update=changes)


def require_all(spec: Specification, origin: Origin, place: Place = ()) -> None:
    """Raise `UserError` if a specification, at `place` of what it is from, lacks what it needs."""
    for where, key in spec.lacking(place):
        raise origin.error(where, f"missing key {key!r}: no run of the experiment says it")


def _values(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else (value,)


@cache
def _marks(specification: type[Specification]) -> dict[str, list[Names]]:
    """The marks of each key."""

    def within(annotation: Any) -> list[Names]:
        own = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Names)]
        return own + [mark for part in get_args(annotation) for mark in within(part)]

    return {
        key: [m for m in field.metadata if isinstance(m, Names)] + within(field.annotation)
        for key, field in specification.model_fields.items()
    }


class UpdateShown(Specification):
    """A row of an update."""

    update: Update
    label: str | None = None
    algorithm: str | None = None


def rows_of(key: str, row: type[Specification]) -> type[Specification]:
    """The specification that is nothing but rows, at least one, under a key."""
    return create_model(
        "Shown",
        __base__=Specification,
        __module__=row.__module__,
        **{key: (list[row], Field(min_length=1))},  # type: ignore[call-overload,valid-type]
    )


def _nothing(frame: polars.DataFrame) -> Iterator[Any]:
    yield from ()


def _no_quotes(paper: Published) -> Quotes:
    return {}


def _means(contexts: Sequence[Context], means: polars.DataFrame) -> polars.DataFrame:
    return means


# A field that is, unless given, what the artefact's module has: the constant of its name, or the
# function that is named here, if there must be one.
_ITS_OWN: Any = None
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "rows": ("build",),
    "drawing": ("draw",),
    "combined": ("over_seeds", _means),
    "quoted": ("quoted", _no_quotes),
    "said": ("said", _nothing),
    "claims": ("claims", _nothing),
    "controlled": ("controlled", _nothing),
}


@dataclass(frozen=True)
class Artefact:
    """One table or figure. What is not given is what its module has under that name: the constants
    `TITLE`, `CAPTION`, … and functions such as `claims`.

    Attributes:
        module: the module that it is, `__name__`.
        title, caption: its heading, and what it shows by which definitions (reStructuredText, with
            a `{name}` in place of each of the paper's numbers).
        quoted: the paper's numbers, for the caption and the claims.
        specification: what an experiment may and must say of it.
        schema: the columns of its CSV.
        label: what the paper calls it; empty for a control of ours.
        said: findings from its own numbers, one sentence each.
        place: its place in the paper's argument, by which claims are listed.
        claims, controlled: what our numbers (a frame without the paper's rows) say of the paper's
            claims, and what is left of its effects under something plainer.
    """

    module: str
    _: KW_ONLY
    specification: type[Specification]
    title: str = _ITS_OWN
    caption: str = _ITS_OWN
    quoted: Callable[[Published], Quotes] = _ITS_OWN
    schema: Mapping[str, type] = _ITS_OWN
    label: str = ""
    said: Callable[[polars.DataFrame], Iterable[str]] = _ITS_OWN
    place: int = 0
    claims: Callable[[polars.DataFrame], Iterable[Claim]] = _ITS_OWN
    controlled: Callable[[polars.DataFrame], Iterable[Controlled]] = _ITS_OWN
    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    reported: ClassVar[str]

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) is None:
                value = getattr(
                    sys.modules[self.module], *_FUNCTIONS.get(one.name, (one.name.upper(),))
                )
                object.__setattr__(self, one.name, value)

    @property
    def name(self) -> str:
        """Its target, such as `table_4_overlap`."""
        return self.module.rpartition(".")[2]

    @property
    def line(self) -> str:
        """What it shows, in one line."""
        return str(sys.modules[self.module].__doc__).splitlines()[0]

    @property
    def source(self) -> Path:
        """Its file."""
        return Path(str(sys.modules[self.module].__file__))

    @property
    def is_control(self) -> bool:
        """Whether it is a control of ours, not one of the paper's."""
        return not self.label

    @property
    def types(self) -> polars.Schema:
        """The types of the columns of its CSV."""
        return polars.Schema(self.schema)

    def read(self, results: Path) -> polars.DataFrame | None:
        """Its finished numbers at full precision, or None where they were not made.

        Raises:
            UserError: the CSV is none that this version wrote.
        """
        path = self._csv(results)
        if not path.exists():
            return None
        provenance.check(path)
        try:
            return polars.read_csv(path, schema=self.types)
        except polars.exceptions.PolarsError as error:
            raise UserError(
                f"{path}: not a {self.kind[:-1]} as this version writes it ({error}); "
                f"write it anew: snakemake --cores all --forcerun {self.name} {path}"
            ) from error

    def ours(self, results: Path) -> polars.DataFrame | None:
        """The finished rows of this experiment alone, or None where there are none."""
        frame = self.read(results)
        frame = None if frame is None else _ours(frame)
        return None if frame is None or frame.is_empty() else frame

    def over(self, results: Path) -> Over | None:
        """The finished numbers at every seed, or None where they are of one."""
        found = turns.seeds_of(self._csv(results))
        path = results / self.kind / f"{self.name}{SUFFIX}"
        if not found.turns or not path.exists():
            return None
        provenance.check(path)
        return turns.read(path, self.types)

    def _csv(self, results: Path) -> Path:
        return results / self.kind / f"{self.name}.csv"

    def captioned(self, paper: Published) -> str:
        """The caption with the paper's numbers in it."""
        return self.caption.format(**self.quoted(paper))

    def claimed(self, ours: polars.DataFrame, results: Path, paper: Published) -> Iterator[Claim]:
        """The claims of our rows, with the paper's numbers, and over how many seeds they are."""
        quotes, over = self.quoted(paper), self.over(results)
        seeds = turns.seeds_of(self._csv(results))
        single = [list(self.claims(_ours(frame))) for frame in over.frames] if over else []
        for claim in self.claims(ours):
            same = [one for claims in single for one in claims if one.claim == claim.claim]
            if over and len(same) == len(single):
                claim = of_all_seeds(claim, same, over)
            if seeds.n == 1:
                words = turns.ONE_SEED if not over else f"something in it has {turns.ONE_SEED} only"
                claim = replace(claim, here=f"{claim.here} ({words})")
            printed, brief = (text.format(**quotes) for text in (claim.paper, claim.brief))
            yield replace(claim, paper=printed, brief=brief)

    def at_turns(self, context: Context) -> list[Context]:
        """The context at every seed, its specification checked."""
        specs = (context.spec, *context.turns)
        return [self.told(replace(context, spec=spec, turns=())) for spec in specs]

    def told(self, context: Context) -> Context:
        """The context with its specification checked.

        Raises:
            UserError: a key is unknown, missing or wrong.
        """
        origin = Origin("specification")
        spec = parse(self.specification, dict(context.spec), origin)
        require_all(spec, origin)
        return replace(context, spec=spec.model_dump(exclude_none=True))


def _ours(frame: polars.DataFrame) -> polars.DataFrame:
    return frame.filter(polars.col("source") == "here") if "source" in frame.columns else frame


@dataclass(frozen=True)
class Table(Artefact):
    """A table: `rows`, its module's `build`, gives its full numbers; `columns` and `notes` are how
    they are shown.

    `combined`, its module's `over_seeds`, says what is to be known over several seeds, from the
    contexts of all of them and the means, where it is more than these.
    """

    _: KW_ONLY
    rows: Callable[[Context], polars.DataFrame] = _ITS_OWN
    columns: tuple[sheets.Column, ...] = _ITS_OWN
    notes: tuple[str, ...] = _ITS_OWN
    combined: Callable[[Sequence[Context], polars.DataFrame], polars.DataFrame] = _ITS_OWN
    kind: ClassVar[str] = "tables"
    suffixes: ClassVar[tuple[str, ...]] = sheets.SUFFIXES
    reported: ClassVar[str] = ".csv"

    def build(self, context: Context) -> polars.DataFrame:
        """The full numbers, which the `.csv` keeps; the paper's alone if nothing is asked for."""
        return self.rows(self.told(context) if context.spec else context)

    def sheet(
        self, frame: polars.DataFrame, over: Over | None = None, *, said: bool = True
    ) -> sheets.Sheet:
        """The table that is printed: findings are listed above the notes."""
        notes = [*(self.said(frame) if said else ()), *self.notes]
        if over:
            notes.insert(len(notes) - len(self.notes), over.note)
            frame = over.with_intervals(frame, [c.key for c in self.columns if c.may_vary])
        return sheets.sheet(frame, self.title, self.columns, notes)

    def write(self, context: Context, folder: Path) -> list[Path]:
        """Build it and write its files; returns them."""
        if not context.turns:
            frame = self.build(context)
            return sheets.write(frame, self.sheet(frame), self.name, folder)
        contexts = self.at_turns(context)
        over = turns.over([self.rows(one) for one in contexts], context.in_pairs)
        frame = self.combined(contexts, over.mean)
        beside = over.write(folder / f"{self.name}{SUFFIX}")
        return [*sheets.write(frame, self.sheet(frame, over), self.name, folder), beside]


@dataclass(frozen=True)
class Figure(Artefact):
    """A figure: `drawing`, its module's `draw`, gives it and exactly what is drawn; `alt` says what
    it shows in words."""

    _: KW_ONLY
    alt: str = _ITS_OWN
    drawing: Callable[[Context], tuple[Drawing, polars.DataFrame]] = _ITS_OWN
    kind: ClassVar[str] = "figures"
    suffixes: ClassVar[tuple[str, ...]] = style.SUFFIXES
    reported: ClassVar[str] = ".png"

    def draw(self, context: Context) -> tuple[Drawing, polars.DataFrame]:
        """The figure, and the numbers that it shows."""
        if not context.spec:
            raise UserError(
                f"specification: {self.name} needs at least one thing to draw; the experiment says "
                f"which under figures.{self.name}"
            )
        return self.drawing(self.told(context))

    def write(self, context: Context, folder: Path) -> list[Path]:
        """Draw it, over several seeds means with intervals, and write its files; returns them."""
        with style.house_style():
            if not context.turns:
                return style.write(*self.draw(context), self.name, folder)
            drawing, frame, over = self.draw_over(context)
            beside = over.write(folder / f"{self.name}{SUFFIX}")
            return [*style.write(drawing, frame, self.name, folder), beside]

    def draw_over(self, context: Context) -> tuple[Drawing, polars.DataFrame, Over]:
        """The figure over several seeds, the means that it shows, and what these are of."""
        contexts = self.at_turns(context)
        over = turns.over([self.drawing(one)[1] for one in contexts], context.in_pairs)
        return *self.drawing(replace(self._mean(contexts), over=over)), over

    def _mean(self, contexts: Sequence[Context]) -> MeanContext:
        """What the figure reads, as means over all turns."""
        named = [
            [(mark.section, name) for _, mark, name in parse(
                self.specification, dict(one.spec), Origin("specification")
            ).named()]
            for one in contexts
        ]  # fmt: skip
        others = {same[0]: [name for _, name in same] for same in zip(*named, strict=True)}
        first = contexts[0]
        return MeanContext(first.results, first.published, first.spec, others=others)
