"""MATH500's grades as lm-eval wants them."""

from typing import Any

from subnetworks.grading.boxes import last_boxed, spoken
from subnetworks.grading.grader import grade, same_meaning


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grades of one answer.

    correct: the grader's verdict (`subnetworks.grading`); math_verify, string_match: by math-verify
    alone and as text; boxed: whether there is a boxed answer at all. Without one all are 0.
    """
    found = grade(results[0], doc["answer"])
    answer = last_boxed(spoken(results[0]) or "") or ""
    return {
        "correct": float(found.correct),
        "math_verify": float(found.boxed and same_meaning(doc["answer"], answer)),
        "string_match": float(found.text),
        "boxed": float(found.boxed),
    }
