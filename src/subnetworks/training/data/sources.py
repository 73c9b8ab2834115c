"""What data of the Hub, and data sampled from a policy, may be set to."""

from typing import Literal, Self

from pydantic import Field, model_validator

from subnetworks.checkpoints.hub.sources import DATA_FILES
from subnetworks.core.validation import Above, Count, Positive, SettingsModel, not_allowed, wrong
from subnetworks.training.settings import OneReward

Gives = Literal["conversations", "problems", "preferences"]
COLUMNS: dict[str, tuple[str, ...]] = {
    "conversations": ("messages",),
    "problems": ("prompt", "truth"),
    "preferences": ("prompt", "chosen", "rejected"),
}


class HubSettings(SettingsModel):
    """Which rows of a data set on the Hub are taken, and what they become."""

    gives: Gives = Field(description="What a run reads.")
    files: str = Field(DATA_FILES, description="A glob over its Parquet files.")
    columns: dict[str, str] = Field(
        {}, description="The Hub's column for each of ours that has another name there."
    )
    where: dict[str, str] = Field({}, description="Only rows with these values.")
    rows: Positive | None = Field(None, description="Only the first so many.")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for name in self.columns:
            if name not in COLUMNS[self.gives]:
                raise wrong(f"columns: {not_allowed(name, COLUMNS[self.gives])}", "columns")
        return self


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
