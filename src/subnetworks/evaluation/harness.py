"""One checkpoint, all its benchmarks, one server: prepare, ask, grade, write."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from subnetworks.errors import UserError
from subnetworks.evaluation import backends
from subnetworks.evaluation import checkpoint as checkpoints
from subnetworks.evaluation import machine as machines
from subnetworks.evaluation import settings as benchmark_settings
from subnetworks.evaluation.answers import Answers
from subnetworks.evaluation.checkpoint import Checkpoint
from subnetworks.evaluation.machine import Machine
from subnetworks.evaluation.settings import Settings
from subnetworks.evaluation.statistics import Estimate, estimate, pass_at_k
from subnetworks.evaluation.tasks import definitions, rows
from subnetworks.files import atomic_path, canonical_json, write_json
from subnetworks.provenance import recorded, versions

ROOM_FOR_PROMPTS = 4096


@dataclass
class Benchmark:
    """One benchmark on its way from settings to score."""

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


def evaluate(
    checkpoint: Path,
    benchmarks: Mapping[str, Mapping[str, Any]],
    output: Path,
    accelerator: Mapping[str, Any],
    *,
    backend: str | None = None,
    seed: int = 0,
    redo: bool = False,
) -> dict[str, Any]:
    """Score a checkpoint on benchmarks.

    Writes `<benchmark>.json` (score, uncertainty, provenance), `<benchmark>.samples.parquet` (one
    row a question) and, when all are there, the index `scores.json` into `output`. A score that is
    there already for the same weights, rows and settings is kept; one that was begun goes on from
    the answers it has; a gated benchmark without access is skipped, and the index says so.

    Args:
        checkpoint: a Hugging Face folder.
        benchmarks: settings by benchmark name; see `settings.Settings`.
        output: the folder for the results.
        accelerator: keys of `machine.Machine`.
        backend: one of `machine.BACKENDS` instead of the accelerator's.
        seed: of few-shot choice and sampling.
        redo: score anew what is there.

    Returns:
        What `scores.json` holds.

    Raises:
        UserError: settings, rows or checkpoint that cannot work, a prompt longer than the context,
            or a server that does not come up or dies; nothing is then written as a score.
    """
    started = time.monotonic()
    if not benchmarks:
        raise UserError("no benchmarks asked for")
    asked = {"backend": backend} if backend else {}
    machine = machines.parse({**accelerator, **asked})
    parsed = {name: benchmark_settings.parse(name, entry) for name, entry in benchmarks.items()}
    inspected = checkpoints.inspect(checkpoint, any(s.chat for s in parsed.values()))
    wanted = [
        _benchmark(name, settings, inspected, machine, seed) for name, settings in parsed.items()
    ]
    pending = [b for b in wanted if redo or not _finished(b, output)]
    facts: dict[str, Any] = {
        "seed": seed,
        "checkpoint_digest": inspected.digest,
        "accelerator": machine.as_dict(),
    }
    with recorded(output / "scores.json", **facts):
        ready: float | None = None
        skipped: dict[str, str] = {}
        if pending:
            ready, skipped = _score(pending, inspected, output, machine, seed)
        scores = {
            b.name: json.loads(_result(b, output).read_text())
            for b in wanted
            if b.name not in skipped
        }
        index = {
            "checkpoint": checkpoint.resolve().name,
            "checkpoint_digest": inspected.digest,
            "scores": {
                name: {key: score[key] for key in ("metric", "score", "stderr", "interval_95", "n")}
                for name, score in scores.items()
            },
            "skipped": skipped,
            "seconds": {
                "all": round(time.monotonic() - started, 1),
                "loading": None if ready is None else round(ready, 1),
            },
        }
        write_json(output / "scores.json", index)
    return index


def _benchmark(
    name: str,
    settings: Settings,
    checkpoint: Checkpoint,
    machine: Machine,
    seed: int,
) -> Benchmark:
    """Check a benchmark's rows, and say by a digest what its score will depend on."""
    task, files = settings.definition, None
    if settings.data is not None:
        files = rows.locate(settings.data, task, settings.shots, f"benchmark {name}")
        rows.read(files.test, task)
        if files.shots is not None:
            found = len(rows.read(files.shots, task))
            if found < settings.shots:
                raise UserError(f"{files.shots}: {found} rows, but shots: {settings.shots}")
    depends = {
        "checkpoint": checkpoint.digest,
        "settings": {key: value for key, value in settings.as_dict().items() if key != "data"},
        "data": files.sha256() if files else None,
        "dtype": machine.dtype,
        "kind": machine.kind,
        "backend": machine.backend,
        "seed": seed,
        "versions": versions(["lm_eval", "math-verify", "transformers", "vllm"]),
    }
    fingerprint = hashlib.sha256(canonical_json(depends).encode()).hexdigest()
    return Benchmark(name, settings, files, fingerprint, {}, {})


def _result(benchmark: Benchmark, output: Path) -> Path:
    return output / f"{benchmark.name}.json"


def _samples(benchmark: Benchmark, output: Path) -> Path:
    return output / f"{benchmark.name}.samples.parquet"


def _finished(benchmark: Benchmark, output: Path) -> bool:
    try:
        result = json.loads(_result(benchmark, output).read_text(encoding="utf-8"))
        return (
            result["fingerprint"] == benchmark.fingerprint and _samples(benchmark, output).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _score(
    pending: Sequence[Benchmark],
    checkpoint: Checkpoint,
    output: Path,
    machine: Machine,
    seed: int,
) -> tuple[float | None, dict[str, str]]:
    """Load the checkpoint and write the scores.

    Returns:
        The seconds until it answered (None if nothing was to be asked), and why benchmarks were
        skipped, by their names.
    """
    longest = max(benchmark.longest for benchmark in pending)
    context = machine.max_model_len or ROOM_FOR_PROMPTS + longest
    if checkpoint.context is not None:
        context = min(context, checkpoint.context)
    console = Console(stderr=True)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    folder = output / ".tasks"  # a kill leaves it, the next start replaces it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _quieten(all(benchmark.files is not None for benchmark in pending))
    with (
        progress,
        backends.opened(checkpoint.path, machine, context, seed, output / "server.log") as opened,
    ):
        starting = progress.add_task(f"loading {checkpoint.path.name}", total=None)
        ready: list[Benchmark] = []
        skipped: dict[str, str] = {}
        for benchmark in pending:
            try:
                _prepare(benchmark, opened.model, folder, context, seed)
                ready.append(benchmark)
            except NoAccess as error:
                skipped[benchmark.name] = str(error)
                console.print(f"skipped: {error}", markup=False, soft_wrap=True)
                for stale in (_result(benchmark, output), _samples(benchmark, output)):
                    stale.unlink(missing_ok=True)
        seconds = opened.ready() if ready else None
        progress.update(starting, total=1, completed=1)
        for benchmark in ready:
            bar = progress.add_task(benchmark.name, total=benchmark.requests)
            advance = partial(progress.advance, bar)
            try:
                _run(benchmark, opened.model, checkpoint, output, machine, seed, advance)
            except Exception as error:
                if (plain := opened.explain(error, benchmark.name)) is not None:
                    raise plain from error
                raise
        shutil.rmtree(folder, ignore_errors=True)
        return seconds, skipped


def _quieten(local: bool) -> None:
    """Leave standard error to our progress; let nothing ask the Hub if all rows are here."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if local:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from datasets import disable_caching  # only now: it reads the environment

    disable_caching()  # shuffled rows would keep the seed of whoever came first


def _seed_all(seed: int) -> None:
    import random

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def _prepare(benchmark: Benchmark, model: Any, folder: Path, context: int, seed: int) -> None:
    """Load a benchmark's tasks, build every prompt, and check that each fits the context."""
    from lm_eval.tasks import TaskManager

    settings = benchmark.settings
    benchmark.parts = definitions.write(folder, benchmark.name, settings, benchmark.files, seed)
    _seed_all(seed)
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
        task.build_all_requests(limit=settings.limit, **_asking(benchmark, model))
        texts = [
            "".join(request.args[:2]) if settings.definition.chooses else request.args[0]
            for request in task.instances
        ]
        benchmark.requests += len(texts)
        for request, tokens in zip(task.instances, model.lengths(texts), strict=True):
            digest.update(canonical_json(list(request.args)).encode() + b"\n")
            if tokens > room:
                raise UserError(
                    f"benchmark {benchmark.name}: question {request.doc_id} of {name} takes "
                    f"{tokens} tokens, but a prompt may have {room} (context {context}, less "
                    f"max_tokens); lower max_tokens or shots, or raise the accelerator's "
                    "max_model_len"
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
    _seed_all(seed)
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


def _asking(benchmark: Benchmark, model: Any) -> dict[str, Any]:
    chat = benchmark.settings.chat
    return {
        "apply_chat_template": chat,
        "chat_template": model.apply_chat_template if chat else None,
        "fewshot_as_multiturn": chat,
    }


def _run(
    benchmark: Benchmark,
    model: Any,
    checkpoint: Checkpoint,
    output: Path,
    machine: Machine,
    seed: int,
    done: Any,
) -> None:
    """Ask a benchmark's questions, grade the answers, write samples and score."""
    from lm_eval.evaluator import evaluate as ask

    started = time.monotonic()
    settings, task = benchmark.settings, benchmark.settings.definition
    facts = {"settings": settings.as_dict(), "seed": seed, "checkpoint_digest": checkpoint.digest}
    answers = Answers(output / f".{benchmark.name}.answers.jsonl", benchmark.fingerprint)
    resumed = answers.found
    with recorded(_result(benchmark, output), **facts):
        try:
            model.begin(answers, benchmark.longest, done)
            _seed_all(seed)
            results = ask(
                lm=model,
                task_dict={"tasks": benchmark.tasks, "groups": {}},
                limit=settings.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=settings.chat,
            )
        finally:
            answers.close()
        items = _items(benchmark, results["samples"])
        total = estimate([item["correct"] for item in items])
        _agree(benchmark, results, items)
        _write_samples(items, _samples(benchmark, output))
        result = {
            "checkpoint": checkpoint.path.resolve().name,
            "checkpoint_digest": checkpoint.digest,
            "benchmark": benchmark.name,
            "metric": f"avg@{settings.samples}" if settings.samples > 1 else task.metric,
            **_numbers(total),
            "groups": _groups(items),
            "other_metrics": _others(items, settings),
            "settings": settings.as_dict(),
            "data": _data(benchmark),
            "task": {
                "name": task.name,
                "version": next(iter(benchmark.tasks.values())).VERSION,
                "definition": "ours" if task.definitions[0][1].startswith("./") else "lm_eval",
                **versions(["lm_eval", "math-verify"]),
            },
            "backend": machine.backend,
            "prompts_sha256": benchmark.prompts_sha256,
            "fingerprint": benchmark.fingerprint,
            "requests": benchmark.requests,
            "requests_resumed": resumed,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(_result(benchmark, output), result)
    answers.discard()


def _items(
    benchmark: Benchmark, samples: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One entry a question, over all parts, with the answers of all its samples."""
    settings, task = benchmark.settings, benchmark.settings.definition
    metric, graded_by = task.metric.split(",")
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for name, (part, _) in benchmark.parts.items():
        for sample in samples[name]:
            key = part, sample["doc_id"]
            item = items.setdefault(
                key,
                {
                    "doc_id": sample["doc_id"],
                    "part": part,
                    "row": _identifier(sample["doc"]),
                    "group": str(sample["doc"][task.groups]) if task.groups else "",
                    "prompt": sample["arguments"][0][0],
                    "answers": [],
                    "gold": _gold(sample),
                    "scores": [],
                    "others": {other: [] for other in task.others},
                },
            )
            if sample["filter"] == graded_by:
                item["answers"].append(_answer(sample, task.chooses))
                item["scores"].append(float(sample[metric]))
                item["log_likelihoods"] = (
                    [float(answer[0][0]) for answer in sample["resps"]] if task.chooses else []
                )
            for other in task.others:
                key_other, filter_other = other.split(",")
                if sample["filter"] == filter_other:
                    item["others"][other].append(float(sample[key_other]))
    found = [items[key] for key in sorted(items, key=lambda key: (key[0], key[1]))]
    for item in found:
        if len(item["scores"]) != settings.samples:
            raise RuntimeError(f"{benchmark.name}: {len(item['scores'])} grades for one question")
        item["correct"] = sum(item["scores"]) / settings.samples
    for number, item in enumerate(found):
        if len(task.definitions) > 1:
            item["doc_id"] = number
    return found


def _identifier(row: Mapping[str, Any]) -> str:
    for key in ("unique_id", "question_id", "id", "ID", "Record ID"):
        if key in row:
            return str(row[key])
    return ""


def _gold(sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    if isinstance(target, list):
        return ", ".join(map(str, target))
    return str(target)


def _answer(sample: Mapping[str, Any], chooses: bool) -> str:
    """The text that was generated, or the number of the choice with the highest likelihood."""
    if not chooses:
        return str(sample["resps"][0][0])
    values = [answer[0][0] for answer in sample["resps"]]
    return str(values.index(max(values)))


def _agree(benchmark: Benchmark, results: Any, items: Sequence[Mapping[str, Any]]) -> None:
    """Our means are those that lm-eval computes, or something is wrong with what was read."""
    theirs = [
        (
            results["results"][name][benchmark.settings.definition.metric],
            len(results["samples"][name]),
        )
        for name in benchmark.parts
    ]
    filters = {s["filter"] for name in benchmark.parts for s in results["samples"][name]}
    count = sum(n for _, n in theirs) / len(filters)
    mean = sum(score * n for score, n in theirs) / sum(n for _, n in theirs)
    ours = sum(item["correct"] for item in items) / len(items)
    if count != len(items) * benchmark.settings.samples or abs(ours - mean) > 1e-9:
        raise RuntimeError(f"{benchmark.name}: lm-eval says {mean} of {count}, the samples {ours}")


def _numbers(found: Estimate) -> dict[str, Any]:
    return {
        "score": found.score,
        "stderr": found.stderr,
        "interval_95": list(found.interval_95),
        "n": found.n,
    }


def _groups(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({item["group"] for item in items} - {""})
    return {
        name: _numbers(estimate([item["correct"] for item in items if item["group"] == name]))
        for name in names
    }


def _others(items: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    others = {}
    for other in settings.definition.others:
        means = [sum(item["others"][other]) / settings.samples for item in items]
        others[other] = _numbers(estimate(means))
    k = 1
    while settings.samples > 1 and k <= settings.samples:
        values = [pass_at_k(settings.samples, round(sum(item["scores"])), k) for item in items]
        others[f"pass@{k}"] = _numbers(estimate(values))
        k *= 2
    return others


def _data(benchmark: Benchmark) -> dict[str, Any]:
    settings = benchmark.settings
    if benchmark.files is not None:
        source, digest = str(benchmark.files.test), benchmark.files.sha256()
    else:
        source = f"hub:{settings.definition.hub}@{settings.revision}"
        digest = rows.digest(
            row
            for name, (_, sample) in benchmark.parts.items()
            if not sample
            for row in benchmark.tasks[name].eval_docs
        )
    count = sum(
        len(benchmark.tasks[name].eval_docs)
        for name, (_, sample) in benchmark.parts.items()
        if not sample
    )
    return {"sha256": digest, "rows": count, "source": source}


def _write_samples(items: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One row a question; `answer` is the first answer, `correct` the share that is right."""
    import pyarrow
    import pyarrow.parquet

    def column(values: list[Any], kind: pyarrow.DataType) -> pyarrow.Array:
        return pyarrow.array(values, kind)

    text, number = pyarrow.string(), pyarrow.float64()
    table = pyarrow.table(
        {
            "doc_id": column([item["doc_id"] for item in items], pyarrow.int64()),
            "row": column([item["row"] for item in items], text),
            "group": column([item["group"] for item in items], text),
            "prompt": column([item["prompt"] for item in items], text),
            "gold": column([item["gold"] for item in items], text),
            "answer": column([item["answers"][0] for item in items], text),
            "correct": column([item["correct"] for item in items], number),
            "answers": column([item["answers"] for item in items], pyarrow.list_(text)),
            "scores": column([item["scores"] for item in items], pyarrow.list_(number)),
            "log_likelihoods": column(
                [item["log_likelihoods"] for item in items], pyarrow.list_(number)
            ),
        }
    )
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
