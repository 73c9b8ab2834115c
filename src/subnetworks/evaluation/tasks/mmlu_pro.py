"""MMLU-Pro, whole or one of its categories: the letter after five worked examples."""

from subnetworks.evaluation.task import Task

# With their numbers of questions.
_CATEGORIES = {
    "biology": 717,
    "business": 789,
    "chemistry": 1132,
    "computer_science": 410,
    "economics": 844,
    "engineering": 969,
    "health": 818,
    "history": 381,
    "law": 1101,
    "math": 1351,
    "other": 924,
    "philosophy": 499,
    "physics": 1299,
    "psychology": 798,
}


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
        questions=sum(_CATEGORIES[category] for category in categories),
    )


TASKS = (
    _task("mmlu_pro", [*_CATEGORIES], made="mmlu_pro"),
    *(
        _task(f"mmlu_pro_{name}", [name], made="mmlu_pro" if name == "math" else None)
        for name in _CATEGORIES
    ),
)
