"""math-verify under limits: hostile answers cost bounded time, and nothing they ask for happens."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from subnetworks.core.errors import UserError
from subnetworks.grading import verifier
from subnetworks.grading.grader import LONGEST, SECONDS, grade, same
from subnetworks.grading.verifier import Verifier, shared

HOSTILE = {
    "nested roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "nested brackets": "(" * 400 + "x" + ")" * 400,
    "a tower of exponents": "9^{9^{9^{9}}}",
    "a huge power": "(x+1)^{99999999}",
    "a huge factorial": "99999999!",
    "a huge exponent of ten": r"1 \times 10^{999999999999}",
    "many digits": "9" * 999,
    "many items": ",".join(f"x^{n}" for n in range(150)),
    "a long sum": r"\sum_{n=1}^{1000000000} \frac{1}{n^n}",
}
LONG = {
    "digits": "1" * 10**6,
    "terms": "x+" * 500_000,
    "open braces": "{" * 10**6,
    "spaces": " " * 10**6 + "1",
    "boxes": r"\boxed{" * 10**5,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_wrong_and_the_next_one_is_graded(name: str) -> None:
    assert not grade(rf"\boxed{{{HOSTILE[name]}}}", r"\frac{x}{2}").correct
    assert grade(r"\boxed{\frac{2x}{4}}", r"\frac{x}{2}").correct


@pytest.mark.parametrize("name", LONG)
def test_an_answer_of_a_million_characters_is_wrong(name: str) -> None:
    assert len(LONG[name]) > LONGEST
    assert not grade(rf"\boxed{{{LONG[name]}}}", "5").correct
    assert not same("5", LONG[name])
    assert not same("x+1", LONG[name])


def test_the_parts_of_an_answer_share_its_time() -> None:
    """Each part alone would take all of it."""
    parts = ", ".join(f"{n}^{{{n}^{{{n}^9}}}}" for n in range(5, 12))
    shared.close()  # and what earlier tests took
    before = _children_seconds()
    assert not same(", ".join(f"x^{n}" for n in range(7)), parts)
    shared.close()  # what it took counts for us once it has ended
    assert _children_seconds() - before < SECONDS + 20  # and the import's


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_nothing_that_an_answer_asks_for_happens(tmp_path: Path) -> None:
    file = tmp_path / "made"
    for answer in (
        rf"\write18{{touch {file}}}",
        rf"\input{{|touch {file}}}",
        f"__import__('pathlib').Path('{file}').touch()",
        rf"\text{{__import__('os').system('touch {file}')}}",
    ):
        assert not same("x+1", answer)
        assert not Verifier().equal("x+1", answer, SECONDS)[0]
    assert not same(Path("/etc/hostname").read_text(), r"\input{/etc/hostname}")
    assert not file.exists()


def test_threads_share_one_process() -> None:
    pairs = [("x+1", "1+x"), ("x+1", "x+2"), (r"\sqrt{8}", r"2\sqrt{2}"), ("2x", "x")] * 4
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda pair: same(*pair), pairs))
    assert found == [True, False, True, False] * 4


def test_a_process_killed_from_outside_is_started_anew() -> None:
    own = Verifier()
    assert own.equal("x+1", "1+x", SECONDS)[0]
    assert own._process is not None
    os.killpg(own._process.pid, signal.SIGKILL)
    assert own.equal("x+1", "1+x", SECONDS)[0]
    assert own.failures == 0
    own.close()


def test_a_pair_that_takes_too_long_counts_as_different_and_as_a_failure() -> None:
    own = Verifier()
    assert own.equal("x+1", "99999999!", 1.0) == (False, 1.0)
    assert own.failures == 1
    assert own.equal("x+1", "1+x", SECONDS)[0]
    own.close()


def test_without_math_verify_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="math-verify is not installed"):
        Verifier().equal("x", "y", SECONDS)


def test_a_verifier_that_cannot_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit(1)")
    monkeypatch.setattr(verifier, "_PROGRAM", program)
    with pytest.raises(UserError, match="cannot be run"):
        Verifier().equal("x", "y", SECONDS)


def test_it_ends_with_whoever_started_it() -> None:
    code = (
        "from subnetworks.grading.verifier import shared\n"
        "assert shared.equal('x+1', '1+x', 3.0)[0]\n"
        "print(shared._process.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)\n"
    )
    source = str(Path(verifier.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    group = int(done.stdout)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process group {group} is still there")
