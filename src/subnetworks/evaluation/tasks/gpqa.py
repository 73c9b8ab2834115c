"""GPQA, zero-shot, by the most likely answer."""

from subnetworks.evaluation.task import Task

_COLUMNS = ("Question", "Correct Answer", *(f"Incorrect Answer {k}" for k in (1, 2, 3)))


def _task(part: str, questions: int) -> Task:
    return Task(
        name=f"gpqa_{part}",
        definitions={"": f"gpqa/zeroshot/gpqa_{part}_zeroshot.yaml"},
        hub="Idavidrein/gpqa",
        columns=_COLUMNS,
        texts=_COLUMNS,
        gold="Correct Answer",
        chooses=True,
        metric="acc,none",
        others=("acc_norm,none",),
        questions=questions,
        gated=True,
    )


TASKS = (_task("diamond", 198), _task("main", 448), _task("extended", 546))
