"""What an experiment and the machine's configuration may say: a settings model for every entry."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from subnetworks.core.validation import (
    Above,
    Count,
    Name,
    Positive,
    Rate,
    SettingsModel,
    Share,
    by_key,
    by_value,
    matching,
    wrong,
)
from subnetworks.evaluation.machine import Serving
from subnetworks.evaluation.settings import Settings as BenchmarkSettings
from subnetworks.experiment.replicates import Seeds
from subnetworks.measuring import mask_sources
from subnetworks.measuring.mask_making import MaskSettings
from subnetworks.mini import settings as mini
from subnetworks.training.algorithms import ALGORITHMS
from subnetworks.training.data.sources import (
    HubSettings,
    LocalSettings,
    MixtureRows,
    RejectionSettings,
)
from subnetworks.training.settings import Accelerator, Lengths, Settings, check_lengths

if TYPE_CHECKING:
    ExperimentName = str
    Repository = str
    Revision = str
    Inside = str
    LocalPath = str
    Tolerance = str
else:
    ExperimentName = matching("[A-Za-z0-9][A-Za-z0-9_-]*", "the name of an experiment")
    _PART = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.-]*"
    Repository = matching(f"{_PART}/[A-Za-z0-9][A-Za-z0-9_.-]*", "a repository, owner/name")
    Revision = matching(
        r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_./-]*", "a branch, tag or commit of the repository"
    )
    Inside = matching(
        r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*",
        "a folder or file in the repository",
    )
    LocalPath = matching(r"[^\x00-\x1f\x7f{}]+", "a path without braces or control characters")
    Tolerance = matching(r"[0-9.]+(e-?[0-9]+)?", "a number as text, in quotes")


class Size(SettingsModel):
    """How large a model is, as its publishers say."""

    weights: Above = Field(description="Numbers that it stores; tied ones count once.")
    layers: Positive = Field(description="num_hidden_layers of its config.json.")
    width: Positive = Field(description="hidden_size of its config.json.")
    vocabulary: Positive = Field(description="vocab_size of its config.json.")


_BASE = "The checkpoint that this, an adapter, is merged into."
_SIZE = "What `plan` reckons with where the weights are not here yet."
_CODE = "Take its own Python code and run it wherever it is loaded."


class MadeCheckpoint(mini.BaseSettings):
    """The miniature's base model, made here."""

    make: Literal["base"] = Field(description="What is made.")


class HubCheckpoint(SettingsModel):
    """A checkpoint of the Hub."""

    hub: Repository = Field(description="The repository, owner/name.")
    revision: Revision = Field(
        "main", description="Branch, tag or commit; the lock holds on to the commit it names."
    )
    folder: Inside | None = Field(
        None, description="The folder (or file) of the repository that is meant, if not all of it."
    )
    size: Size | None = Field(None, description=_SIZE)
    base: Name | None = Field(None, description=_BASE)
    trust_remote_code: bool = Field(False, description=_CODE)


class LocalCheckpoint(SettingsModel):
    """A checkpoint of one's own."""

    path: LocalPath = Field(
        description="A folder or file as `measure` reads it, an adapter's too (with base)."
    )
    size: Size | None = Field(None, description=_SIZE)
    base: Name | None = Field(None, description=_BASE)
    trust_remote_code: bool = Field(False, description=_CODE)


CHECKPOINTS: dict[str, type[SettingsModel]] = {
    "make": MadeCheckpoint,
    "hub": HubCheckpoint,
    "path": LocalCheckpoint,
}


class Demonstrations(mini.DemonstrationSettings):
    """Conversations to imitate, made here."""

    make: Literal["demonstrations"]


class Problems(mini.ProblemSettings):
    """Problems with verifiable answers, made here."""

    make: Literal["problems"]


class Preferences(mini.PreferenceSettings):
    """Pairs of a checkpoint's own answers, made here."""

    make: Literal["preferences"]
    policy: Name = Field(description="The checkpoint that is sampled.")


class ForeignDemonstrations(mini.ForeignSettings):
    """Right answers in a style that no checkpoint made here gives."""

    make: Literal["foreign_demonstrations"]


class ForeignPreferences(mini.ForeignSettings):
    """Pairs in a style that no checkpoint made here gives."""

    make: Literal["foreign_preferences"]


MADE_DATA: dict[str, type[SettingsModel]] = {
    "demonstrations": Demonstrations,
    "problems": Problems,
    "preferences": Preferences,
    "foreign_demonstrations": ForeignDemonstrations,
    "foreign_preferences": ForeignPreferences,
}


class SampledData(RejectionSettings):
    """A checkpoint's own right answers, to imitate."""

    sample: Name = Field(description="The data set whose problems are answered.")
    policy: Name = Field(description="The checkpoint whose right answers are kept.")


class HubData(HubSettings):
    """A data set of the Hub."""

    hub: Repository = Field(description="The repository, owner/name.")
    revision: Revision = Field(
        "main", description="Branch, tag or commit; the lock holds on to the commit it names."
    )


class LocalData(LocalSettings):
    """A data set of one's own files."""

    path: LocalPath = Field(
        description="A file (.jsonl, .json, .csv, .parquet), or a pattern that matches several."
    )


class Mixture(MixtureRows):
    """Rows of several data sets."""

    mix: Annotated[dict[Name, Above], Field(min_length=2)] = Field(
        description="The data sets with their weights: parts of all rows, against each other."
    )


DATASETS: dict[str, type[SettingsModel]] = {
    "sample": SampledData,
    "hub": HubData,
    "path": LocalData,
    "mix": Mixture,
}


class Update(SettingsModel):
    """A pair of checkpoints to compare; every run implies one, init to end."""

    before: Name = Field(description="The checkpoint that is compared with.")
    after: Name = Field(description="The checkpoint that is compared.")
    cast: Literal["BF16", "F16", "F32"] | None = Field(
        None, description="Compare in this instead of the narrower of both."
    )
    common_rows: bool = Field(False, description="Compare the common rows of resized vocabularies.")
    allow_partial: bool = Field(
        False, description="Compare what there is, also where it is less than 99 % of all entries."
    )
    absolute: Annotated[list[Tolerance], Field(min_length=1)] | None = Field(
        None, description="Tolerances of |Δ| in float32; text, since they name the counts."
    )
    relative: Annotated[list[Tolerance], Field(min_length=1)] | None = Field(
        None, description="Tolerances η of |Δ| ≤ η·max(|w|, |ŵ|); text, as before."
    )


MASKS: dict[str, type[MaskSettings]] = {
    name: mask_sources.load(name).SETTINGS for name in mask_sources.names()
}


class Overlap(SettingsModel):
    """Two masks to compare."""

    masks: Annotated[list[Name], Field(min_length=2, max_length=2)] = Field(
        description="Names of runs, updates or masks."
    )


class Agreement(SettingsModel):
    """A full run, the run within its subnetwork, and checkpoints to compare the agreement with."""

    full: Name = Field(description="The run that trained all weights.")
    subnetwork: Name = Field(description="The run within its mask.")
    baselines: dict[Name, Name] = Field(
        {}, description="Checkpoints to compare with, by what they are called."
    )


class Benchmark(BenchmarkSettings):
    """An evaluation's task, how it is asked, and where its rows come from."""

    make: Literal["math500", "agieval", "mmlu_pro"] | None = Field(
        None, description="Rows made here."
    )
    rows: Positive | None = Field(None, description="How many are made (500).")
    seed: Count | None = Field(None, description="What they are drawn from (0).")

    @property
    def made(self) -> bool:
        """See `subnetworks.evaluation.settings.Settings.made`."""
        return self.make is not None

    @model_validator(mode="after")
    def _source(self) -> Self:
        for key in ("rows", "seed"):
            if getattr(self, key) is not None and not self.made:
                raise wrong(f"{key} needs make: only rows that are made here have one", key)
        if self.made and (self.data is not None or self.revision is not None):
            raise wrong("make, data and revision exclude each other", "make")
        if self.make is not None:
            self._check_made(self.make)
        return self

    def _check_made(self, make: str) -> None:
        """The made rows are those that the task reads."""
        task = self.definition
        if task.made != make:
            remedy = f"make: {task.made}" if task.made else "name its rows with data"
            raise wrong(f"the rows of make: {make} are not those of {task.name}; {remedy}", "make")


class Evaluation(SettingsModel):
    """What a checkpoint is scored on."""

    benchmarks: Annotated[list[Name], Field(min_length=1)] = Field(
        description="Names of benchmarks."
    )


def _in_experiment(name: str, kind: type[Settings]) -> type[Settings]:
    """The settings of an algorithm's run, with what it trains on and lengths in epochs."""
    lengths = Lengths.model_fields
    extra: dict[str, Any] = {
        "algorithm": (Literal[name], Field(description="How it is trained.")),
        "init": (Name, Field(description="The checkpoint it starts from.")),
        "data": (Name, Field(description="The data set it trains on.")),
        "mask": (Name | None, Field(None, description="The mask it trains within.")),
        "steps": (Positive | None, Field(None, description="Optimiser steps.")),
        "epochs": (Above | None, lengths["epochs"]),
        "warmup_ratio": (Share | None, lengths["warmup_ratio"]),
    }
    check = model_validator(mode="after")(_lengths_of_run)
    return create_model(
        f"{kind.__name__}OfRun",
        __base__=kind,
        __doc__=kind.__doc__,
        __validators__={"_lengths": check},  # type: ignore[dict-item]
        **extra,
    )


def _lengths_of_run(self: Any) -> Any:
    check_lengths(self)
    return self


RUNS: dict[str, type[Settings]] = {
    name: _in_experiment(name, kind) for name, kind in ALGORITHMS.items()
}


if TYPE_CHECKING:
    AnyCheckpoint = SettingsModel
    AnyData = SettingsModel
    AnyRun = SettingsModel
    AnyMask = SettingsModel
    Shown = dict[str, Any]
else:
    AnyCheckpoint = by_key(CHECKPOINTS)
    AnyData = by_key({"make": by_value("make", MADE_DATA), **DATASETS})
    AnyRun = by_value("algorithm", RUNS)
    AnyMask = by_key(MASKS)
    # Each artefact's own module says what it may be given.
    Shown = dict[str, Any]


class Sections(SettingsModel):
    """The sections of an experiment; each maps names to entries."""

    checkpoints: dict[Name, AnyCheckpoint] = Field(
        {}, description="Named sets of weights that no run here makes."
    )
    datasets: dict[Name, AnyData] = Field({}, description="Data that runs train on.")
    runs: dict[Name, AnyRun] = Field(
        {}, description="Trainings; the end of each is a checkpoint of its name."
    )
    updates: dict[Name, Update] = Field(
        {}, description="Further pairs of checkpoints to compare; every run implies one."
    )
    masks: dict[Name, AnyMask] = Field(
        {}, description="Masks made of others, of weights, of a trajectory; updates imply theirs."
    )
    overlaps: dict[Name, Overlap] = Field({}, description="Pairs of masks to compare.")
    agreements: dict[Name, Agreement] = Field(
        {}, description="Full runs and those within their subnetworks, to compare."
    )
    benchmarks: dict[Name, Benchmark] = Field(
        {}, description="Evaluation tasks and how they are asked."
    )
    evaluation: dict[Name, Evaluation] = Field(
        {}, description="Which checkpoint is scored on which benchmarks."
    )
    tables: dict[Name, Shown] = Field({}, description="The tables wanted, and what each shows.")
    figures: dict[Name, Shown] = Field({}, description="The figures wanted, and what each shows.")


SECTIONS = tuple(Sections.model_fields)


class ExperimentFile(Sections):
    """An experiment of the subnetworks pipeline."""

    like: ExperimentName | None = Field(
        None,
        description="Another experiment: its entries, but for those here (an empty one takes it "
        "out).",
    )
    seeds: Seeds | None = Field(
        None, description="The seeds of every run whose `seed` is the first of them."
    )
    checkpoints: dict[Name, AnyCheckpoint] = Field(
        description="Named sets of weights that no run here makes."
    )
    controls: Sections = Field(
        Sections.model_validate({}),
        description="What the paper's readers ask next: further entries of the same sections, that "
        "`snakemake controls` makes and `snakemake` leaves out.",
    )


class Speed(SettingsModel):
    """What one device reaches, in 10¹² operations a second; two for each weight and token."""

    training: Above | None = Field(
        None, description="In forward and backward passes; None is not known."
    )
    sampling: Above | None = Field(None, description="In vLLM's answers; None is not known.")
    start: Rate = Field(0.0, description="Seconds until a job's first step or answer.")


class Machine(Accelerator):
    """A machine that trains and serves."""

    kind: Literal["cpu", "cuda"] = Field(description="What computes.")
    devices: Positive = Field(
        description="Worker processes that share the weights (FSDP2 ranks; GPUs on cuda)."
    )
    threads: Positive = Field(description="Cores a job takes on a node.")
    hours: Above | None = Field(
        None, description="Longest wall time of a job that reads, trains or serves a model (24)."
    )
    speed: Speed = Field(
        Speed.model_validate({}),
        description="What `plan` and dry runs reckon with; no job reads it.",
    )
    evaluation: Serving = Field(
        Serving.model_validate({}),
        description="What only evaluation reads; changing it trains nothing anew.",
    )


class Configuration(SettingsModel):
    """The machine settings of the subnetworks pipeline (config.yaml)."""

    experiment: ExperimentName = Field(description="The name of a file in experiments/.")
    accelerator: str = Field(description="Which of the accelerators trains and serves.")
    accelerators: dict[str, Machine] = Field(description="Machines by name.")
    environments: str = Field(description="Folder of the stages' virtual environments.")
    cache: str = Field(description="Folder of downloaded checkpoints.")
    local: dict[Repository, LocalPath] = Field(
        {},
        description="Folders with repositories of the Hub (owner/name), which are read from there "
        "instead. A benchmark's has its rows as test.jsonl.",
    )

    @model_validator(mode="after")
    def _there(self) -> Self:
        if self.accelerator not in self.accelerators:
            raise wrong(
                f"accelerator: no entry {self.accelerator!r} in accelerators; "
                f"there are: {', '.join(self.accelerators)}",
                "accelerator",
            )
        return self

    @property
    def machine(self) -> Machine:
        """The one that trains and serves."""
        return self.accelerators[self.accelerator]
