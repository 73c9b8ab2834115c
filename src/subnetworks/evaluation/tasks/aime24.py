"""The AIME of 2024, zero-shot."""

from subnetworks.evaluation.task import Task

TASKS = (
    Task(
        name="aime24",
        definitions={"": "aime/aime24.yaml"},
        hub="Maxwell-Jia/AIME_2024",
        columns=("Problem", "Answer"),
        texts=("Problem",),
        gold="Answer",
        metric="exact_match,none",
        max_tokens=32768,
        questions=30,
    ),
)
