"""AGIEval's LSAT and LogiQA, by the most likely option."""

from subnetworks.evaluation.rows import Row, check_letter, check_text, options_of
from subnetworks.evaluation.task import Task

_PUBLISHED = ("passage", "question", "options", "label")


def converted(row: Row, where: str) -> Row:
    """A row in AGIEval's own schema (passage, question, options, label) as lm-eval's tasks read it.

    The query is AGIEval's zero-shot prompt. The gold is the option that prints the label's letter,
    or the one at its place if none does.
    """
    if "query" in row or not set(_PUBLISHED) <= set(row):
        return row
    options, label = options_of(row, "options", where), row["label"]
    letters = check_letter(row, "label", options, where)
    check_text(row, "question", where)
    if row["passage"] is not None:
        check_text(row, "passage", where)
    query = (
        f"{row['passage'] or ''}Q: {row['question']} Answer Choices: {' '.join(options)}\n"
        f"A: Among A through {letters[-1]}, the answer is"
    )
    # The label is the printed letter: LogiQA lists 19 of its rows as (A), (C), (B), (D).
    printed = [i for i, option in enumerate(options) if option.startswith(f"({label})")]
    gold = printed[0] if len(printed) == 1 else letters.index(label)
    return {"query": query, "choices": options, "gold": [gold]}


def _task(name: str, questions: int) -> Task:
    return Task(
        name=f"agieval_{name.replace('-', '_')}",
        definitions={"": f"agieval/{name}.yaml"},
        hub=f"hails/agieval-{name}",
        columns=("query", "choices", "gold"),
        texts=("query",),
        gold="gold",
        options="choices",
        chooses=True,
        metric="acc,none",
        others=("acc_norm,none",),
        converted=converted,
        made="agieval",
        questions=questions,
    )


TASKS = (
    _task("lsat-ar", 230),
    _task("lsat-lr", 510),
    _task("lsat-rc", 269),
    _task("logiqa-en", 651),
)
