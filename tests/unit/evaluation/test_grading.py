"""MATH500's answers as the benchmark grades them; the rules are tested with the grader."""

import json

import pytest
from conftest import needs_evaluation, shared

needs_evaluation()

from subnetworks.evaluation.tasks import math500  # noqa: E402


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("96", "96", True),
        ("96", "97", False),
        ("96", "9", False),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac12", True),
        ("1,000", "1000", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True),
        ("(1,2)", "(2,1)", False),
        (r"\text{Evelyn}", "Evelyn", True),
        (r"\text{Evelyn}", "Angela", False),
        ("p - q", "-q+p", True),
        (r"90^\circ", "90", True),
        ("10\\%", "10", True),
        ("5", "", False),
    ],
)
def test_grades(gold: str, answer: str, right: bool) -> None:
    graded = math500.process_results({"answer": gold}, [rf"Thus \boxed{{{answer}}}."])
    assert graded["correct"] == right


def test_an_answer_outside_a_box_is_wrong() -> None:
    graded = math500.process_results({"answer": "5"}, ["The answer is 5."])
    assert set(graded.values()) == {0.0}


def test_reference_solutions_of_math500_are_right() -> None:
    rows = [json.loads(line) for line in shared("math500/test.jsonl").open(encoding="utf-8")]
    assert len(rows) == 500
    graded = {row["unique_id"]: math500.process_results(row, [row["solution"]]) for row in rows}
    for rule in ("correct", "math_verify", "string_match", "boxed"):
        assert [name for name, grades in graded.items() if grades[rule] != 1] == [], rule


def test_another_problems_solution_is_wrong() -> None:
    rows = [json.loads(line) for line in shared("math500/test.jsonl").open(encoding="utf-8")]
    right = [
        (row["answer"], other["answer"])
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
        if math500.process_results(row, [other["solution"]])["correct"]
    ]
    # Neighbours that happen to have the same answer, one of them written x=5.
    assert all(answer == other.removeprefix("x=") for answer, other in right)
    assert len(right) <= 5
