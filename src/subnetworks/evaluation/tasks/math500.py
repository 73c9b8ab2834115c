r"""MATH500, zero-shot, by our grader.

lm-eval's hendrycks_math500 does not read \boxed{}, and its minerva_math500 grades by its four
shots' "Final Answer: …", which a chat model does not write.
"""

from typing import Any

from subnetworks.evaluation.task import Task

_GRADES = ("correct", "math_verify", "string_match", "boxed")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grades of one answer.

    correct: the grader's verdict (`subnetworks.grading`); math_verify, string_match: by math-verify
    alone and as text; boxed: whether there is a boxed answer at all. Without one all are 0.
    """
    from subnetworks.grading.boxes import last_boxed, spoken
    from subnetworks.grading.grader import grade, same_meaning

    found = grade(results[0], doc["answer"])
    answer = last_boxed(spoken(results[0]) or "") or ""
    return {
        "correct": float(found.correct),
        "math_verify": float(found.boxed and same_meaning(doc["answer"], answer)),
        "string_match": float(found.text),
        "boxed": float(found.boxed),
    }


_DEFINITION: dict[str, Any] = {
    "dataset_path": "HuggingFaceH4/MATH-500",
    "output_type": "generate_until",
    "training_split": None,
    "test_split": "test",
    "doc_to_text": "{{problem}}",
    "doc_to_target": "{{answer}}",
    "process_results": process_results,
    "generation_kwargs": {"until": []},
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _GRADES
    ],
    "metadata": {"version": 1.0},
}

TASKS = (
    Task(
        name="math500",
        definitions={"": _DEFINITION},
        hub="HuggingFaceH4/MATH-500",
        columns=("problem", "answer", "level"),
        texts=("problem", "answer"),
        gold="answer",
        metric="correct,none",
        others=tuple(f"{name},none" for name in _GRADES[1:]),
        groups="level",
        max_tokens=2048,
        chat=True,
        problem="problem",
        instruction="\nPlease reason step by step, and put your final answer within \\boxed{}.",
        made="math500",
        questions=500,
    ),
)
