"""From a benchmark's settings to the prompts that will be asked."""

import hashlib
from pathlib import Path
from typing import Any

from subnetworks.core.errors import UserError
from subnetworks.core.files import canonical_json
from subnetworks.evaluation import definitions
from subnetworks.evaluation.benchmark import Benchmark


def seed_all(seed: int) -> None:
    """Seed the generators that lm-eval's tasks draw from."""
    import random

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def prepare(
    benchmark: Benchmark, model: Any, folder: Path, context: int, own: bool, seed: int
) -> None:
    """Load a benchmark's tasks, build every prompt, and check that each fits the context.

    Args:
        benchmark: is given its tasks, parts, number of requests and digest of prompts.
        model: lm-eval's model of the checkpoint; only its tokenizer is used.
        folder: where definitions are written.
        context: the longest prompt and answer together, in tokens.
        own: whether that is the checkpoint's own limit.
        seed: of few-shot choice and sampling.

    Raises:
        NoAccess: a gated data set.
        UserError: another that cannot be read, or a prompt that does not fit.
    """
    from lm_eval.tasks import TaskManager

    settings = benchmark.settings
    benchmark.parts = definitions.write(folder, benchmark.name, settings, benchmark.files, seed)
    seed_all(seed)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    try:
        loaded = manager.load(list(benchmark.parts))["tasks"]
    except Exception as error:
        if benchmark.files is None:
            raise _unread(benchmark, error) from error
        raise
    benchmark.tasks = {name: loaded[name] for name in benchmark.parts}
    for task in benchmark.tasks.values():
        _process_once(task, seed)
    digest = hashlib.sha256()
    benchmark.requests = 0
    # lm-eval keeps one token of the context back.
    room = context - 1 - (0 if settings.definition.chooses else settings.max_tokens)
    for name, task in benchmark.tasks.items():
        task.set_fewshot_seed(seed=seed)
        task.build_all_requests(limit=settings.limit, **asking(benchmark, model))
        texts = [
            "".join(request.args[:2]) if settings.definition.chooses else request.args[0]
            for request in task.instances
        ]
        benchmark.requests += len(texts)
        for request, tokens in zip(task.instances, model.lengths(texts), strict=True):
            digest.update(canonical_json(list(request.args)).encode() + b"\n")
            if tokens > room:
                where = "the checkpoint allows no more" if own else "max_model_len may be raised"
                raise UserError(
                    f"benchmark {benchmark.name}: question {request.doc_id} of {name} takes "
                    f"{tokens} tokens, but a prompt may have {room} (context {context}, less "
                    f"max_tokens); lower max_tokens or shots; {where}"
                )
    benchmark.prompts_sha256 = digest.hexdigest()


def _process_once(task: Any, seed: int) -> None:
    """Have a task's rows processed once, from the seed.

    lm-eval processes them whenever it looks at them, and GPQA shuffles its choices in doing so:
    the question that is asked must be the one that is graded.
    """
    process = task.config.process_docs
    if process is None:
        return
    split = task.config.test_split
    seed_all(seed)
    rows = process(task.dataset[split])
    task.config.process_docs = lambda given: (
        rows if given is task.dataset[split] else process(given)
    )


class NoAccess(UserError):
    """A gated data set that the Hub does not hand out to whoever asks here."""


def _unread(benchmark: Benchmark, error: BaseException) -> UserError:
    """What to say of a data set that could not be read from the Hub."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError  # a gated one is a kind of it

    task = benchmark.settings.definition
    what = f"benchmark {benchmark.name}: hub:{task.hub}@{benchmark.settings.revision}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DatasetNotFoundError | RepositoryNotFoundError) and task.gated:
            return NoAccess(
                f"{what}: gated, and there is no access to it; ask for it on the Hub and set "
                "HF_TOKEN, or name local rows with 'data'"
            )
        cause = cause.__cause__ or cause.__context__
    words = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"{what}: cannot be read ({words[0]}); 'data' names local rows instead")


def asking(benchmark: Benchmark, model: Any) -> dict[str, Any]:
    """How lm-eval is to make prompts of questions: with a chat template or without."""
    chat = benchmark.settings.chat
    return {
        "apply_chat_template": chat,
        "chat_template": model.apply_chat_template if chat else None,
        "fewshot_as_multiturn": chat,
    }
