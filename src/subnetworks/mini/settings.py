"""What each thing made here may be set to; checked before anything is made."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from subnetworks.core.validation import Above, Count, Positive, SettingsModel, Share, wrong
from subnetworks.mini.arithmetic import Operation

OPERATIONS: dict[str, Operation] = {"addition": "+", "subtraction": "-"}
"""What a task is called in settings: the first is task A, the second task B."""
Task = Literal["addition", "subtraction"]
VOCABULARY = 320
HEAD_WIDTH = 32  # the narrowest that vLLM serves on a CPU
_THREADS = "Part of the recipe: another number of threads rounds differently."
_TASK = "What is asked; benchmarks ask additions."
_WIDTH = f"hidden_size, a multiple of {2 * HEAD_WIDTH}; the MLP is three times as wide."


def _in_heads(width: int) -> int:
    # Two heads of queries share one of keys and values.
    if width % (2 * HEAD_WIDTH):
        raise wrong(f"must be a multiple of {2 * HEAD_WIDTH}, got {width}")
    return width


class Settings(SettingsModel):
    """What everything made here has."""

    seed: Count = Field(0, description="What it is drawn from.")


class BaseSettings(Settings):
    """The base model, from its pre-training on."""

    steps: Positive = Field(600, description="Of pre-training.")
    batch_size: Positive = Field(64, description="Texts of one step.")
    learning_rate: Above = Field(2e-3, description="The peak of its schedule.")
    threads: Positive = Field(1, description=_THREADS)
    width: Annotated[Positive, AfterValidator(_in_heads)] = Field(128, description=_WIDTH)
    layers: Positive = Field(4, description="num_hidden_layers.")

    @property
    def heads(self) -> int:
        """Heads of queries; half as many of keys and values."""
        return self.width // HEAD_WIDTH

    @property
    def intermediate(self) -> int:
        """Width of the MLP within."""
        return 3 * self.width

    @property
    def weights(self) -> int:
        """All numbers of `mini.base.architecture`."""
        attention = 3 * self.width**2 + 2 * self.width  # Q, K, V, O; biases of the first three
        mlp = 3 * self.width * self.intermediate
        norms = 2 * self.width
        layers = self.layers * (attention + mlp + norms)
        return layers + 2 * VOCABULARY * self.width + self.width


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
