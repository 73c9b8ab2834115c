"""MMLU-Pro, whole or one of its categories: the letter after five worked examples."""

from subnetworks.evaluation.task import Task

_CATEGORIES = (
    "biology business chemistry computer_science economics engineering health history law math "
    "other philosophy physics psychology"
).split()


def _task(name: str, categories: list[str], made: str | None = None) -> Task:
    one = len(categories) == 1
    return Task(
        name=name,
        definitions={
            "" if one else category: f"mmlu_pro/mmlu_pro_{category}.yaml" for category in categories
        },
        hub="TIGER-Lab/MMLU-Pro",
        columns=("question", "options", "answer", "category", "cot_content"),
        texts=("question", "answer", "category", "cot_content"),
        gold="answer",
        options="options",
        metric="exact_match,custom-extract",
        groups="category",
        shots=5,
        shots_split="validation",
        max_tokens=2048,
        only=("category", categories[0].replace("_", " ")) if one else None,
        made=made,
    )


TASKS = (
    _task("mmlu_pro", _CATEGORIES, made="mmlu_pro"),
    *(
        _task(f"mmlu_pro_{name}", [name], made="mmlu_pro" if name == "math" else None)
        for name in _CATEGORIES
    ),
)
