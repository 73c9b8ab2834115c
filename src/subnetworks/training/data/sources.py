"""What data of files and of the Hub, and data sampled from a policy, may be set to."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from subnetworks.checkpoints.chat import Named
from subnetworks.checkpoints.hub.sources import DATA_FILES, data_files
from subnetworks.core.validation import (
    Above,
    Count,
    Positive,
    SettingsModel,
    Share,
    matching,
    not_allowed,
    shown,
    wrong,
)
from subnetworks.training.settings import Reward

Gives = Literal["conversations", "problems", "preferences"]
if TYPE_CHECKING:
    Part = str
else:
    _NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
    Part = matching(f"{_NAME}(/{_NAME})*", "a name, or a path of names")
Value = str | int | float | bool


def _is_value(value: Any) -> Any:
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, str | int | float) for one in several):
        raise wrong(f"expected a value or a list of values, got {shown(value)}")
    return value


Values = Annotated[Value | list[Value], BeforeValidator(_is_value)]
COLUMNS: dict[str, tuple[str, ...]] = {
    "conversations": ("messages", "prompt", "completion", "tools"),
    "problems": ("prompt", "truth", "tools"),
    "preferences": ("prompt", "chosen", "rejected", "tools"),
}


FIELDS = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""A template's columns in braces; doubled braces are single ones, and `{}` is itself."""


class Extraction(SettingsModel):
    """Where the truth of a problem is, in a text that has more."""

    column: str = Field(description="The files' column.")
    after: str | None = Field(None, description="What follows the last of these, such as ####.")
    boxed: bool = Field(False, description="The last \\boxed{…}.")
    pattern: str | None = Field(
        None, description="The last match of a regular expression, or of its one group."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.after is not None) + self.boxed + (self.pattern is not None) > 1:
            raise wrong("needs at most one of: after | boxed | pattern")
        if self.after == "":
            raise wrong("after: expected a text, got ''", "after")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise wrong(f"pattern: no regular expression ({error})", "pattern") from None
            if groups > 1:
                raise wrong(
                    f"pattern: has {groups} groups, and one at most says what is meant; write the "
                    "others as (?:…)",
                    "pattern",
                )
        return self


class Judged(SettingsModel):
    """Where single answers are, and which of them are right."""

    answer: str = Field(description="The files' column of the answers.")
    label: str = Field(description="The files' column that is 1 or true for those that are right.")


class RowSettings(SettingsModel):
    """Which rows of some files are taken, and what they become."""

    gives: Gives = Field(description="What a run reads.")
    columns: dict[str, str] = Field(
        {}, description="The files' column for each of ours that has another name there."
    )
    system: str | None = Field(None, description="A system message before every prompt.")
    template: str | None = Field(
        None,
        description="What the user says, with the files' columns in braces: "
        "`{question} Answer in \\boxed{}.` Other braces with something inside are doubled.",
    )
    answer: Extraction | None = Field(
        None, description="Where a problem's truth is, if no column is just that."
    )
    judged: Judged | None = Field(
        None,
        description="Of preferences whose rows are single answers: each right one is paired with a "
        "wrong one to the same prompt, drawn from seed.",
    )
    where: dict[str, Values] = Field(
        {}, description="Only rows whose columns have these values; of a list, any of them."
    )
    shuffle: bool = Field(False, description="Take the rows in an order drawn from seed.")
    seed: Count = Field(0, description="Of shuffle, judged and validation.")
    rows: Positive | None = Field(None, description="Only the first so many.")
    validation: Positive | None = Field(
        None, description="So many of these rows, drawn from seed, are not trained on."
    )
    max_bad_share: Share = Field(
        0.01, description="More rows than this share that no run can use end the job."
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name in self.columns:
            if name not in COLUMNS[self.gives]:
                raise wrong(f"columns: {not_allowed(name, COLUMNS[self.gives])}", "columns")
        if self.template is not None:
            if not self.fields:
                raise wrong("template: names no column, such as {question}", "template")
            if twice := [name for name in ("prompt", "messages") if name in self.columns]:
                raise wrong(f"template and columns.{twice[0]} exclude each other", "template")
        if self.answer is not None:
            if self.gives != "problems":
                raise wrong(f"answer: only problems have a truth, not {self.gives}", "answer")
            if "truth" in self.columns:
                raise wrong("answer and columns.truth exclude each other", "answer")
        if self.judged is not None:
            if self.gives != "preferences":
                raise wrong(f"judged: only preferences are paired, not {self.gives}", "judged")
            if given := [name for name in ("chosen", "rejected") if name in self.columns]:
                raise wrong(f"judged and columns.{given[0]} exclude each other", "judged")
        if self.validation is not None and self.rows is not None and self.validation >= self.rows:
            raise wrong(f"validation: must be below rows ({self.rows})", "validation")
        return self

    @property
    def fields(self) -> list[str]:
        """The columns that the template names."""
        return [name for name in FIELDS.findall(self.template or "") if name]


class LocalSettings(RowSettings):
    """Which rows of one's own files are taken, and what they become."""


class HubSettings(RowSettings):
    """Which rows of a data set on the Hub are taken, and what they become."""

    configuration: Part | None = Field(
        None, description="Its folder of that name; needed where the files are in several."
    )
    split: Part | None = Field(None, description="What the names of its files begin with (train).")
    files: str | None = Field(
        None,
        description="Instead of these, a glob over its files (.jsonl, .json, .csv, .parquet); by "
        f"default `{DATA_FILES}`.",
    )
    # Others' data are as they are: what is left out is counted, and refused only on demand.
    max_bad_share: Share = Field(
        1.0, description="More rows than this share that no run can use end the job."
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.files is not None and (self.configuration or self.split) is not None:
            raise wrong("files excludes configuration and split, which it says itself", "files")
        return self

    @property
    def pattern(self) -> str:
        """The glob over the files that are fetched."""
        return data_files(self.files, self.configuration, self.split)


class MixtureRows(SettingsModel):
    """Which rows a mixture has."""

    rows: Positive | None = Field(
        None, description="How many in all; by default as many as there can be, each once."
    )
    seed: Count = Field(0, description="Of which rows are taken, and of their order.")


class MixtureSettings(MixtureRows):
    """How data sets are mixed."""

    weights: Annotated[dict[str, Above], Field(min_length=2)] = Field(
        description="Of each data set by name: its rows' part of all rows, against the others'."
    )


class RejectionSettings(SettingsModel):
    """What is sampled of a policy's answers, and what is kept of them.

    An answer is right if the first part of the reward that knows the truth is 1. One that was cut
    off is dropped.
    """

    gives: Literal["conversations", "preferences"] = Field(
        "conversations",
        description="The right answers, to imitate, or pairs of answers to one problem that are "
        "rewarded differently: the highest with the lowest, and so on.",
    )

    seed: Count = Field(0, description="Of sampling.")
    samples: Positive = Field(8, description="Answers sampled for each problem.")
    problems: Positive | None = Field(None, description="Ask only the first so many.")
    answers_per_problem: Positive | None = Field(
        None, description="Keep so many different right answers, or pairs, at most."
    )
    temperature: Above = Field(1.0, description="Of sampling.")
    max_prompt_length: Positive = Field(512, description="Tokens of the longest prompt.")
    max_response_length: Positive = Field(512, description="Tokens of the longest answer.")
    chat_template: Named | None = Field(
        None, description="A template by name instead of the policy's own."
    )
    reward: Reward = Field(
        "boxed",
        description="math, boxed, gsm8k or package.module:function, where 1 is right; of "
        "preferences also the others of runs, and weighted sums.",
    )

    @model_validator(mode="after")
    def _says_what_is_right(self) -> Self:
        alone = isinstance(self.reward, str) and self.reward not in ("format", "length")
        if self.gives == "conversations" and not alone:
            raise wrong(
                f"reward: {shown(self.reward)} does not say which answers are right to imitate; "
                "allowed: math, boxed, gsm8k, random, package.module:function (or set gives to "
                "preferences)",
                "reward",
            )
        return self
