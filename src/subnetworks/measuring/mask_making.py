"""What sources of masks have in common: their settings, and what they are asked to make."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from subnetworks.core.errors import UserError
from subnetworks.core.files import canonical_json
from subnetworks.core.schedule import FIRST_BATCHES
from subnetworks.core.validation import (
    Count,
    Name,
    Place,
    Positive,
    SettingsModel,
    Share,
    checked,
    wrong,
)
from subnetworks.measuring import mask_sources

if TYPE_CHECKING:
    import numpy as np


class MaskSettings(SettingsModel):
    """What an experiment says of a mask that is made.

    The name of the source is one of its keys. What a mask is made of is said by `masks`, `run` and
    `checkpoint`: names in the experiment.

    Attributes:
        memory: what making it takes, in MB.
        made_of: what `subnetworks mask` takes one of; empty where it takes several masks.
        reads: what is read of its `run`: `trajectory`, `gradients`, `init`.
        options: keys of the value that are options of that command.
    """

    memory: ClassVar[int] = 1500
    made_of: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()

    seed: Count = Field(0, description="What a random mask is drawn from.")

    @property
    def source(self) -> str:
        """The name of its source."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def value(self) -> Any:
        """What stands under that name."""
        return getattr(self, self.source)

    @property
    def masks(self) -> list[str]:
        """The masks that it is made of, in order."""
        return []

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint whose weights choose, if any do."""
        return None

    @property
    def run(self) -> str | None:
        """The run of which something is read, if one is."""
        return None

    @property
    def batches(self) -> int | None:
        """How many batches' gradients of its run it is made of, if of any."""
        return None

    def refused(self, run: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """What its `run`, as the experiment has it, does not give, and for which key."""
        yield from ()

    def command(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """The arguments of `subnetworks mask` that make it.

        Args:
            files: where `sources`, `checkpoint`, `trajectory` and `gradients` lie, as far as it
                needs them; of a checkpoint or a trajectory, the manifest.
            run: its `run`, as the experiment has it; nothing where it has none.
        """
        return " ".join([self.source, *files["sources"]])

    def judged(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """The arguments of `subnetworks ranking` behind a mask; both arguments as for `command`."""
        return " ".join([self.source, str(Path(files["checkpoint"]).parent)])


class OfOne(MaskSettings):
    """A mask made of one other."""

    made_of: ClassVar[str] = "mask"

    @property
    def masks(self) -> list[str]:
        """See `MaskSettings.masks`."""
        return [self.value]


Names = Annotated[list[Name], Field(min_length=2)]


class OfSeveral(MaskSettings):
    """A mask made of several others."""

    @property
    def masks(self) -> list[str]:
        """See `MaskSettings.masks`."""
        return list(self.value)


class Amount(SettingsModel):
    """How many entries are chosen in each tensor."""

    like: Name | None = Field(None, description="As many in each tensor as this mask has.")
    density: Share | None = Field(None, description="This share instead.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.like is None) == (self.density is None):
            raise wrong("needs exactly one of: like | density")
        return self


class Weights(SettingsModel):
    """A checkpoint's own weights."""

    checkpoint: Name = Field(description="Whose weights choose.")


class ByWeights(Amount, Weights):
    """Entries that a checkpoint's own weights choose, in each tensor."""


class OfAmount(MaskSettings):
    """A mask of as many entries as another has, or of a share of them."""

    options: ClassVar[tuple[str, ...]] = ("like", "density")

    @property
    def masks(self) -> list[str]:
        """See `MaskSettings.masks`."""
        return [self.value.like] if self.value.like else []


class Chosen(OfAmount):
    """A mask of the entries that a checkpoint's weights choose."""

    made_of: ClassVar[str] = "checkpoint"

    @property
    def checkpoint(self) -> str | None:
        """See `MaskSettings.checkpoint`."""
        return str(self.value.checkpoint)

    def command(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """See `MaskSettings.command`."""
        values = {key: getattr(self.value, key) for key in self.options}
        if self.value.like:
            values["like"] = " ".join(files["sources"])
        given = [option(key, value) for key, value in values.items() if value is not None]
        return " ".join([self.source, str(Path(files["checkpoint"]).parent), *given])


class OfRun(Amount):
    """Entries that a run's start chooses."""

    run: Name = Field(description="The run that is to be predicted.")
    in_all: bool = Field(
        False, description="Whether the density is kept in all, not in each tensor."
    )


class OfGradients(OfRun):
    """Entries that the gradients of a run's own loss at its init choose."""

    batches: Annotated[Positive, Field(ge=2)] = Field(
        FIRST_BATCHES, description="How many of the run's first batches are looked at."
    )


class Predicted(OfAmount):
    """A mask of the entries that what is known before a run's first update chooses."""

    @property
    def run(self) -> str:
        """See `MaskSettings.run`."""
        return str(self.value.run)

    @property
    def batches(self) -> int | None:
        """See `MaskSettings.batches`."""
        return self.value.batches if "gradients" in self.reads else None

    def settings(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Further options, by key."""
        return {}

    def command(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """See `MaskSettings.command`."""
        like = " ".join(files["sources"])
        amount = option("like", like) if like else option("density", self.value.density)
        in_all = ["--in-all"] if self.value.in_all else []
        return " ".join([self.judged(files, run), amount, *in_all])

    def judged(self, files: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """See `MaskSettings.judged`."""
        read = [files["gradients"]] if "gradients" in self.reads else []
        read += [str(Path(files["init"]).parent)] if "init" in self.reads else []
        given = [option(key, value) for key, value in self.settings(run).items()]
        return " ".join([self.source, *read, *given])


NAMED_OPTIONS = ("like", "density", "rank")
"""Options that the command line has for a key each; others are set by name."""


def option(key: str, value: object) -> str:
    """A key as the command line takes it."""
    if key in NAMED_OPTIONS:
        return f"--{key} {value}"
    text = value if isinstance(value, str) else canonical_json(value)
    return f"--set {shlex.quote(f'{key}={text}')}"


@dataclass(frozen=True)
class Request:
    """What is to be made of which files.

    Attributes:
        sources: the masks, or what else the source takes: paths, or `hub:…` for a checkpoint.
        output: the mask to write.
        seed: of what is drawn.
        in_all: keep the density in all, not in each tensor.
        options: those of the source's `options` that were given, by key.
        different_bases, different_rules: see `subnetworks.measuring.mask_origins.check`.
    """

    sources: Sequence[str]
    output: Path
    seed: int = 0
    in_all: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    different_bases: bool = False
    different_rules: bool = False


def check(name: str, settings: type[MaskSettings], request: Request) -> None:
    """Check that a source gets what it is made of, the options that it needs, and no others.

    Raises:
        UserError: something is missing, is too much, or has a wrong value.
    """
    if settings.made_of and len(request.sources) != 1:
        raise UserError(f"{name}: needs one {settings.made_of}, got {len(request.sources)}")
    if settings.made_of not in ("", "checkpoint") and Path(request.sources[0]).is_dir():
        raise UserError(
            f"{name}: {request.sources[0]} is a folder; name the file of one {settings.made_of}"
        )
    for key in request.options:
        if key not in settings.options:
            if not (users := mask_sources.with_option(key)):
                raise UserError(f"{name}: no mask has an option {key!r}")
            raise UserError(f"{name}: {_written(key)} is for {', '.join(users)}")
    if not settings.options:
        return
    if "like" in settings.options and len({"like", "density"} & request.options.keys()) != 1:
        raise UserError(f"{name}: needs either --like MASK or --density SHARE")
    fields = settings.model_fields[name].annotation.model_fields  # type: ignore[union-attr]
    for key in settings.options:
        if (entry := fields.get(key)) is None:  # the command's alone: checked in use
            continue
        if key not in request.options and entry.is_required():
            raise UserError(f"{name}: needs {_written(key)}")
        if key in request.options and key not in NAMED_OPTIONS:  # their values are checked in use
            place = (_written(key),)
            checked(Annotated[entry.annotation, entry], request.options[key], name, place)


def _written(key: str) -> str:
    return f"--{key}" if key in NAMED_OPTIONS else f"--set {key}"


def make(name: str, request: Request) -> int:
    """Write the mask of a source: its own `make`, or the highest of its `scores`.

    Returns the number of set entries.
    """
    from subnetworks.measuring import scores

    source = mask_sources.load(name)
    if hasattr(source, "make"):
        return int(source.make(request))
    return scores.make(name, request, source.scores(request))


def combined(
    operation: str, request: Request, merge: Callable[[Sequence["np.ndarray"]], "np.ndarray"]
) -> int:
    """Write what is made of several masks of one base and one rule; says what is not known of them.

    `merge` is that of `subnetworks.measuring.masks.combine`. Returns the number of set entries.
    """
    from subnetworks.measuring import mask_origins
    from subnetworks.measuring.masks import Mask, combine

    masks = [Mask.open(path) for path in request.sources]
    if len(masks) < 2:
        raise UserError(f"{operation}: needs at least two masks, got {len(masks)}")
    notes = mask_origins.check(
        masks, different_bases=request.different_bases, different_rules=request.different_rules
    )
    changed = combine(operation, masks, request.output, merge)
    for note in notes:
        print(f"  {note}")
    return changed
