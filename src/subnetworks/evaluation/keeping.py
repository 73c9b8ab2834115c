"""What every backend's model does alike: kept answers, progress, and the same tokens for a text."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from lm_eval.api.instance import Instance

from subnetworks.checkpoints.chat import end_token
from subnetworks.evaluation.answers import Answers
from subnetworks.grading.boxes import spoken


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Texts as tokens, with what the tokenizer itself puts first unless the text has it already.

    lm-eval's own models for transformers and vLLM do this; its model for servers leaves a Llama's
    first token out, which costs such a checkpoint points. A chat template writes that token itself.
    """
    first = tokenizer.bos_token
    found: list[list[int]] = [[]] * len(texts)
    for special in (False, True):
        chosen = [
            i
            for i, text in enumerate(texts)
            if (not first or text[: len(first)] != first) is special
        ]
        if chosen:
            chosen_texts = [texts[i] for i in chosen]
            encoded = tokenizer(chosen_texts, add_special_tokens=special).input_ids
            for i, tokens in zip(chosen, encoded, strict=True):
                found[i] = tokens
    return found


class Generated(str):
    """A generated text, and whether it was cut off at its longest."""

    cut: bool

    def __new__(cls, text: str, cut: bool = False) -> "Generated":
        """A text that was cut off or not."""
        made = super().__new__(cls, text)
        made.cut = cut
        return made

    def split(self, *arguments: Any, **settings: Any) -> list[str]:  # type: ignore[override]
        """As of any text: lm-eval ends an answer so where a stop sequence is, which is no cut."""
        parts = super().split(*arguments, **settings)
        return [Generated(part, self.cut and len(parts) == 1) for part in parts]


class Reply(str):
    """What of an answer is graded: nothing if it was cut off or is still inside `<think>`.

    Attributes:
        text: all that was generated.
        cut: whether it was cut off.
    """

    text: str
    cut: bool

    def __new__(cls, text: str, cut: bool, prompt: str) -> "Reply":
        """An answer to `prompt`, which may have opened `<think>` itself."""
        said = None if cut else spoken(text, prompt.rstrip().endswith("<think>"))
        made = super().__new__(cls, said or "")
        made.text, made.cut = text, cut
        return made


class Keeping:
    """Comes before one of lm-eval's models among a class's bases.

    Attributes:
        chunk: so many requests are handed to the model at once, and their answers kept when all
            have come; 0 hands over all, for a model that calls `keep` for each.
    """

    chunk = 0
    _answers: Answers | None = None
    _done: Callable[[int], None] = staticmethod(lambda count: None)
    tokenizer: Any

    def begin(self, answers: Answers, longest: int, done: Callable[[int], None]) -> None:
        """Start on a benchmark.

        Args:
            answers: where answers are looked up and kept.
            longest: tokens of the longest answer.
            done: called with the number of requests that have been answered.
        """
        self._answers = answers
        self._done = done

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text."""
        return [len(tokens) for tokens in encode(self.tokenizer, texts)]

    def keep(self, key: str, answer: Any) -> None:
        """Note an answer that has just come."""
        assert self._answers is not None
        self._answers.add(key, _kept(answer))
        self._done(1)

    def _ask(
        self, kind: str, requests: list[Instance], ask: Callable[[list[Instance]], list[Any]]
    ) -> list[Any]:
        assert self._answers is not None
        keys = [Answers.key(kind, request.args) for request in requests]
        kept = {key: answer for key in keys if (answer := self._answers.get(key)) is not None}
        self._done(sum(key in kept for key in keys))
        # The same question twice is asked once.
        asked = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in kept
        }
        waiting = list(asked)
        step = self.chunk or max(1, len(waiting))
        for start in range(0, len(waiting), step):
            part = waiting[start : start + step]
            for key, answer in zip(part, ask([asked[key] for key in part]), strict=True):
                kept[key] = _kept(answer)
                if self._answers.get(key) is None:
                    self.keep(key, answer)
        self._done(sum(key in asked for key in keys) - len(asked))
        return [kept[key] for key in keys]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to prompts, each a `Reply`; those kept from before are not asked for again."""
        ask = partial(super().generate_until, disable_tqdm=True)  # type: ignore[misc]
        requests = [self._ended(request) for request in requests]
        return [
            Reply(answer["text"], answer["cut"], str(request.args[0]))
            for answer, request in zip(
                self._ask("generate_until", requests, ask), requests, strict=True
            )
        ]

    def _ended(self, request: Instance) -> Instance:
        """A request that also ends where the chat template ends an answer, if that is not where the
        tokenizer says: base models come with a template whose end they do not name."""
        mark = self._mark
        if not mark or mark == self.tokenizer.eos_token:
            return request
        prompt, settings = request.args
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        return replace(request, arguments=(prompt, {**settings, "until": [*until, mark]}))

    @cached_property
    def _mark(self) -> str:
        """What is special of that end; nothing without a template, or of plain text."""
        if not getattr(getattr(self, "tokenizer", None), "chat_template", None):
            return ""
        token = end_token(self.tokenizer)
        return "" if token is None else self.tokenizer.decode([token])

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, greedy) of continuations; those kept from before are not asked again."""
        ask = partial(super().loglikelihood, disable_tqdm=True)  # type: ignore[misc]
        return [
            (float(value), bool(greedy))
            for value, greedy in self._ask("loglikelihood", requests, ask)
        ]


def _kept(answer: Any) -> Any:
    """An answer as it is kept: a text with whether it was cut off, or log-likelihoods."""
    if not isinstance(answer, str):
        return answer
    return {"text": str(answer), "cut": isinstance(answer, Generated) and answer.cut}
