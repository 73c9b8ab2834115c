"""What each kind of thing may be told, with its defaults; checked before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from subnetworks.errors import UserError
from subnetworks.mini.arithmetic import Operation

OPERATIONS: dict[str, Operation] = {"addition": "+", "subtraction": "-"}
"""What a task is called in settings: the first is task A, the second task B."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What everything made here has: the seed it is drawn from."""

    seed: int = 0

    def check(self) -> None:
        """Raise `UserError` for a value out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "operation":
                if value not in OPERATIONS:
                    raise UserError(
                        f"settings: operation must be one of {', '.join(OPERATIONS)}, got {value!r}"
                    )
            elif value < 0 or (value == 0 and field.name not in ("seed", "choice_share")):
                raise UserError(f"settings: {field.name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class BaseSettings(Settings):
    """The base model: `steps` of pre-training on `batch_size` texts each.

    `threads` is part of the recipe: another number of threads rounds differently.
    """

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 2e-3
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class DemonstrationSettings(Settings):
    """Conversations to imitate; `choice_share` of them are multiple choice."""

    rows: int = 19200
    choice_share: float = 0.1

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.choice_share > 1:
            raise UserError(f"settings: choice_share must lie in [0, 1], got {self.choice_share}")


@dataclass(frozen=True, kw_only=True)
class ProblemSettings(Settings):
    """Sums, or differences, with verifiable answers: `rows` to train on, `test_rows` held out."""

    rows: int = 4096
    test_rows: int = 256
    operation: str = "addition"


@dataclass(frozen=True, kw_only=True)
class ForeignSettings(Settings):
    """Answers in a style that no model here has read: `rows` of them, or of pairs."""

    rows: int = 2048


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(Settings):
    """Pairs sampled from a policy: of `samples` answers a problem, one right and one wrong."""

    rows: int = 2048
    samples: int = 8
    temperature: float = 1.0
    threads: int = 1
    operation: str = "addition"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """A benchmark of `rows` held-out sums."""

    rows: int = 500


_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
}
S = TypeVar("S", bound=Settings)


def parse(kind: type[S], values: Mapping[str, Any], name: str) -> S:
    """Settings of one class from JSON values.

    Raises:
        UserError: a key that `name` does not have, a value of another type, one out of range.
    """
    allowed = {field.name: field.type for field in fields(kind)}
    for key, value in values.items():
        if key not in allowed:
            raise UserError(
                f"make {name}: unknown setting {key!r}; allowed: {', '.join(sorted(allowed))}"
            )
        wanted, expected = _KINDS[allowed[key]]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise UserError(f"make {name}: {key} must be {expected}, got {value!r}")
    settings = kind(**values)
    settings.check()
    return settings
