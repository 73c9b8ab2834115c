"""From lm-eval's graded samples to one entry a question, and from those to scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subnetworks.core.files import atomic_path
from subnetworks.evaluation import rows
from subnetworks.evaluation.benchmark import Benchmark
from subnetworks.evaluation.settings import Settings
from subnetworks.evaluation.statistics import Estimate, estimate, pass_at_k


def items_of(
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
                    "cut": [],
                    "gold": _gold(sample),
                    "scores": [],
                    "others": {other: [] for other in task.others},
                },
            )
            if sample["filter"] == graded_by:
                item["answers"].append(_answer(sample, task.chooses))
                item["cut"].append(not task.chooses and bool(sample["resps"][0][0].cut))
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
        return str(sample["resps"][0][0].text)
    values = [answer[0][0] for answer in sample["resps"]]
    return str(values.index(max(values)))


def check_against(benchmark: Benchmark, results: Any, items: Sequence[Mapping[str, Any]]) -> None:
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


def numbers(found: Estimate) -> dict[str, Any]:
    """An estimate as a score's file holds it."""
    return {
        "score": found.score,
        "stderr": found.stderr,
        "interval_95": list(found.interval_95),
        "n": found.n,
    }


def of_items(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The score of questions; `cut` counts answers that ended for want of tokens, and are wrong."""
    return {
        **numbers(estimate([item["correct"] for item in items])),
        "cut": sum(sum(item["cut"]) for item in items),
    }


def by_group(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by level or category; empty where the benchmark has none."""
    names = sorted({item["group"] for item in items} - {""})
    return {name: of_items([i for i in items if i["group"] == name]) for name in names}


def other_metrics(items: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """The definition's further metrics, and pass@k for k a power of two."""
    others = {}
    for other in settings.definition.others:
        means = [sum(item["others"][other]) / settings.samples for item in items]
        others[other] = numbers(estimate(means))
    k = 1
    while settings.samples > 1 and k <= settings.samples:
        values = [pass_at_k(settings.samples, round(sum(item["scores"])), k) for item in items]
        others[f"pass@{k}"] = numbers(estimate(values))
        k *= 2
    return others


def data_of(benchmark: Benchmark) -> dict[str, Any]:
    """Where the rows come from, how many they are, and a digest of them."""
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


def write_samples(items: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One row per question; `answer` is the first answer, `correct` the share that is right."""
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
            "cut": column([item["cut"] for item in items], pyarrow.list_(pyarrow.bool_())),
            "scores": column([item["scores"] for item in items], pyarrow.list_(number)),
            "log_likelihoods": column(
                [item["log_likelihoods"] for item in items], pyarrow.list_(number)
            ),
        }
    )
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
