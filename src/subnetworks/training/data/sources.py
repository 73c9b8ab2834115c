"""What data of files and of the Hub, and data sampled from a policy, may be set to."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from subnetworks.checkpoints.hub.sources import DATA_FILES
from subnetworks.core.validation import (
    Above,
    Count,
    Positive,
    SettingsModel,
    Share,
    not_allowed,
    shown,
    wrong,
)
from subnetworks.training.settings import OneReward

Gives = Literal["conversations", "problems", "preferences"]
Value = str | int | float | bool


def _is_value(value: Any) -> Any:
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, str | int | float) for one in several):
        raise wrong(f"expected a value or a list of values, got {shown(value)}")
    return value


Values = Annotated[Value | list[Value], BeforeValidator(_is_value)]
COLUMNS: dict[str, tuple[str, ...]] = {
    "conversations": ("messages", "prompt", "completion"),
    "problems": ("prompt", "truth"),
    "preferences": ("prompt", "chosen", "rejected"),
}


class RowSettings(SettingsModel):
    """Which rows of some files are taken, and what they become."""

    gives: Gives = Field(description="What a run reads.")
    columns: dict[str, str] = Field(
        {}, description="The files' column for each of ours that has another name there."
    )
    where: dict[str, Values] = Field(
        {}, description="Only rows whose columns have these values; of a list, any of them."
    )
    shuffle: bool = Field(False, description="Take the rows in an order drawn from seed.")
    seed: Count = Field(0, description="Of shuffle.")
    rows: Positive | None = Field(None, description="Only the first so many.")
    max_bad_share: Share = Field(
        0.01, description="More rows than this share that no run can use end the job."
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name in self.columns:
            if name not in COLUMNS[self.gives]:
                raise wrong(f"columns: {not_allowed(name, COLUMNS[self.gives])}", "columns")
        return self


class LocalSettings(RowSettings):
    """Which rows of one's own files are taken, and what they become."""


class HubSettings(RowSettings):
    """Which rows of a data set on the Hub are taken, and what they become."""

    files: str = Field(DATA_FILES, description="A glob over its Parquet files.")
    # Others' data are as they are: what is left out is counted, and refused only on demand.
    max_bad_share: Share = Field(
        1.0, description="More rows than this share that no run can use end the job."
    )


class RejectionSettings(SettingsModel):
    """What is sampled of a policy's answers, and what is kept of them.

    An answer is right if its reward is 1. One that was cut off is dropped.
    """

    seed: Count = Field(0, description="Of sampling.")
    samples: Positive = Field(8, description="Answers sampled for each problem.")
    problems: Positive | None = Field(None, description="Ask only the first so many.")
    answers_per_problem: Positive | None = Field(
        None, description="Keep so many different right answers at most."
    )
    temperature: Above = Field(1.0, description="Of sampling.")
    max_prompt_length: Positive = Field(512, description="Tokens of the longest prompt.")
    max_response_length: Positive = Field(512, description="Tokens of the longest answer.")
    reward: OneReward = Field(
        "boxed", description="math, boxed or package.module:function: 1 is right."
    )
