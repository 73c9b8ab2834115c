"""One benchmark on its way from settings to score."""

from dataclasses import dataclass
from typing import Any

from subnetworks.evaluation import rows
from subnetworks.evaluation.settings import Settings


@dataclass
class Benchmark:
    """One benchmark on its way from settings to score.

    Attributes:
        name: its name in the experiment.
        settings: how it is asked.
        files: its local rows; None reads the Hub.
        fingerprint: a digest of all that its score depends on.
        tasks: lm-eval's tasks by name, once prepared.
        parts: task name -> (part, number of the sample).
        prompts_sha256: a digest of all prompts, once prepared.
        requests: how many there are, once prepared.
    """

    name: str
    settings: Settings
    files: rows.Files | None
    fingerprint: str
    tasks: dict[str, Any]
    parts: dict[str, tuple[str, int]]
    prompts_sha256: str = ""
    requests: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return 1 if self.settings.definition.chooses else self.settings.max_tokens
