"""What each thing made here may be set to; checked before anything is made."""

from typing import Literal

from pydantic import Field

from subnetworks.core.validation import Above, Count, Positive, SettingsModel, Share
from subnetworks.mini.arithmetic import Operation

OPERATIONS: dict[str, Operation] = {"addition": "+", "subtraction": "-"}
"""What a task is called in settings: the first is task A, the second task B."""
Task = Literal["addition", "subtraction"]
# The base model's size: a Qwen2 whose weights are those of `mini.base.architecture`.
LAYERS = 4
WIDTH = 128
VOCABULARY = 320
WEIGHTS = 870_528
_THREADS = "Part of the recipe: another number of threads rounds differently."
_TASK = "What is asked; benchmarks ask additions."


class Settings(SettingsModel):
    """What everything made here has."""

    seed: Count = Field(0, description="What it is drawn from.")


class BaseSettings(Settings):
    """The base model, from its pre-training on."""

    steps: Positive = Field(600, description="Of pre-training.")
    batch_size: Positive = Field(64, description="Texts of one step.")
    learning_rate: Above = Field(2e-3, description="The peak of its schedule.")
    threads: Positive = Field(1, description=_THREADS)


class DemonstrationSettings(Settings):
    """Conversations to imitate."""

    rows: Positive = Field(19200, description="Conversations.")
    choice_share: Share = Field(0.1, description="How many of them are multiple choice.")


class ProblemSettings(Settings):
    """Sums, or differences, with verifiable answers."""

    rows: Positive = Field(4096, description="Problems to train on.")
    test_rows: Positive = Field(256, description="Problems held out.")
    operation: Task = Field("addition", description=_TASK)


class ForeignSettings(Settings):
    """Answers in a style that no model here has read, or pairs of them."""

    rows: Positive = Field(2048, description="Answers, or pairs.")


class PreferenceSettings(Settings):
    """Pairs sampled from a policy: of several answers to a problem, one right and one wrong."""

    rows: Positive = Field(2048, description="Pairs.")
    samples: Positive = Field(8, description="Answers sampled for each problem.")
    temperature: Above = Field(1.0, description="Of sampling.")
    threads: Positive = Field(1, description=_THREADS)
    operation: Task = Field("addition", description=_TASK)


class BenchmarkSettings(Settings):
    """A benchmark of held-out sums."""

    rows: Positive = Field(500, description="Questions.")
