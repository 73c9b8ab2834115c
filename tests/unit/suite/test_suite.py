"""The sum over the environments: a failure anywhere counts, a skip only if nothing else ran it."""

import importlib.util
import json
from pathlib import Path

_spec = importlib.util.spec_from_file_location("suite", Path(__file__).parents[2] / "run.py")
assert _spec is not None
assert _spec.loader is not None
suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(suite)


def lines(*outcomes: tuple[str, str]) -> list[str]:
    return [
        json.dumps({"test": test, "outcome": outcome, "reason": "Skipped: why"})
        for test, outcome in outcomes
    ]


def test_a_skip_is_forgotten_where_the_test_ran() -> None:
    counts, skipped = suite.summary(lines(("t.py::a", "skipped"), ("t.py::a", "passed")))
    assert counts == {"passed": 1}
    assert skipped == {}


def test_a_module_skipped_in_one_environment_and_run_in_another() -> None:
    counts, skipped = suite.summary(
        lines(("t.py", "skipped"), ("t.py::a", "passed"), ("t.py::b", "skipped"))
    )
    assert counts == {"passed": 1, "skipped": 1}
    assert set(skipped) == {"t.py::b"}


def test_a_module_that_ran_nowhere_is_named() -> None:
    counts, skipped = suite.summary(lines(("t.py", "skipped"), ("t.py", "skipped")))
    assert counts == {"skipped": 1}
    assert skipped == {"t.py": "Skipped: why"}


def test_a_failure_is_not_outweighed() -> None:
    counts, _ = suite.summary(lines(("a", "failed"), ("a", "passed"), ("b::c", "passed")))
    assert counts == {"failed": 1, "passed": 1}


def test_a_module_that_cannot_be_collected_counts_beside_its_tests() -> None:
    counts, _ = suite.summary(lines(("t.py", "failed"), ("t.py::a", "passed")))
    assert counts == {"failed": 1, "passed": 1}
