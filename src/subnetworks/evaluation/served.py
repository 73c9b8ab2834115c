"""lm-eval's view of the server: its completions model, with kept answers and progress."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

from subnetworks.checkpoints.manifest import trusts
from subnetworks.evaluation.answers import Answers
from subnetworks.evaluation.keeping import Generated, Keeping, encode
from subnetworks.evaluation.server import Server

REQUEST_TIMEOUT_S = 6 * 3600
LONG_ANSWER = 256
BATCH = 16


class _Keeper:
    """Receives each answer as lm-eval gets it."""

    def __init__(self, model: "ServedModel") -> None:
        self._model = model

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        self._model.keep(Answers.key(kind, arguments), answer)


class ServedModel(Keeping, LocalCompletionsAPI):
    """A checkpoint behind a `Server`.

    Prompts are tokenised here, with the checkpoint's tokenizer, and sent as tokens; generation and
    log-likelihoods go to the same address. Requests travel in batches where answers are short.
    """

    def __init__(
        self,
        checkpoint: Path,
        server: Server,
        context: int,
        sequences: int,
        seed: int,
    ) -> None:
        super().__init__(
            model=server.name,
            tokenizer=str(checkpoint),
            trust_remote_code=trusts(checkpoint),
            tokenizer_backend="huggingface",
            base_url=f"{server.url}/v1/completions",
            header=server.headers,
            num_concurrent=max(2, sequences),
            batch_size=1,
            max_length=context,
            max_retries=3,
            timeout=REQUEST_TIMEOUT_S,
            seed=seed,
        )
        self._sequences = sequences
        self.cache_hook = _Keeper(self)  # type: ignore[assignment]

    def attach(self, server: Server) -> None:
        """Send requests to where the server listens now."""
        self.base_url = f"{server.url}/v1/completions"

    def begin(self, answers: Answers, longest: int, done: Callable[[int], None]) -> None:
        """Start on a benchmark; short answers are asked for in batches."""
        super().begin(answers, longest, done)
        self._batch_size = BATCH if longest <= LONG_ANSWER else 1
        self._concurrent = max(2, self._sequences // self._batch_size)

    @staticmethod
    def parse_generations(outputs: Any, **_: object) -> list[str]:
        """The server's texts, with whether they ended for want of tokens."""
        found: list[str] = []
        for output in outputs if isinstance(outputs, list) else [outputs]:
            for choice in sorted(output["choices"], key=lambda choice: int(choice["index"])):
                found.append(Generated(choice["text"], choice.get("finish_reason") == "length"))
        return found

    def tok_encode(self, string: Any, *_: object, **__: object) -> Any:
        """One text, or several, as tokens; see `encode`."""
        one = isinstance(string, str)
        tokens = encode(self.tokenizer, [string] if one else list(string))
        return tokens[0] if one else tokens
