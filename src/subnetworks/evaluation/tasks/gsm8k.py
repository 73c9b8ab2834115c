"""GSM8K: the number behind ####, after five worked examples."""

from subnetworks.evaluation.task import Task

TASKS = (
    Task(
        name="gsm8k",
        definitions={"": "gsm8k/gsm8k.yaml"},
        hub="openai/gsm8k",
        columns=("question", "answer"),
        texts=("question", "answer"),
        gold="answer",
        metric="exact_match,strict-match",
        others=("exact_match,flexible-extract",),
        shots=5,
        shots_split="train",
        max_tokens=256,
        questions=1319,
    ),
)
