"""What is known of a benchmark beyond lm-eval's definition of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A benchmark: whose definition, which rows, what is scored, and how they are cut.

    Attributes:
        name: as in `task: NAME`.
        definitions: part -> its definition: a YAML file among lm-eval's tasks, or what such a file
            says, with functions of a module as values where lm-eval takes any. Most benchmarks have
            one part; its name is then "".
        hub: the data set on the Hub that the definition reads.
        columns: what a row must have.
        texts: which of these are text.
        gold: the one that holds the right answer: text or a whole number, or where there are
            options, the right one's letter, or the places of those that are right in a list.
        options: the one that lists the answers to choose from, if rows have them.
        chooses: whether answers are chosen by log-likelihood; else they are generated.
        metric: the score, as lm-eval's `metric,filter`.
        others: further metrics worth keeping.
        groups: the column by which scores are also given.
        shots: examples before each question, by the definition.
        shots_split: where the examples come from, None if the definition brings its own.
        max_tokens: the longest answer, by the definition.
        chat: whether the chat template is applied unless the settings say otherwise.
        problem: the column that `instruction` is appended to; None if nothing may be.
        instruction: what is appended unless the settings say otherwise.
        only: a row belongs to the benchmark if this column has this value.
        converted: makes a row of `columns` of one in another schema, which it is given with the
            place to name in errors; a row that is not in it is returned as it is.
        questions: how many rows the split has, as its publishers say; None if that is not known.
        gated: whether the Hub hands the data set out to those only who were let in.
        made: the rows that can be made here (`make:`) and fit.
    """

    name: str
    definitions: Mapping[str, str | Mapping[str, Any]]
    hub: str
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    gold: str
    metric: str
    options: str | None = None
    chooses: bool = False
    others: tuple[str, ...] = ()
    groups: str | None = None
    shots: int = 0
    shots_split: str | None = None
    max_tokens: int = 0
    chat: bool = False
    problem: str | None = None
    instruction: str = ""
    only: tuple[str, str] | None = None
    converted: Callable[[dict[str, Any], str], dict[str, Any]] | None = None
    questions: int | None = None
    gated: bool = False
    made: str | None = None

    @property
    def own(self) -> bool:
        """Whether a definition is ours, not lm-eval's."""
        return not all(isinstance(found, str) for found in self.definitions.values())
