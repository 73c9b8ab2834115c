"""How far a long job is, off a terminal: plain lines, and none for what is quick."""

import time

import pytest

from subnetworks.core.progress import Progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_bytes_are_reported_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("ranks", 40 * 10**9) as progress:
        for second in range(1, 21):
            clock.now = 100.0 + second
            progress.update(second * 10**9)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "ranks: 25%, 1.00 GB/s, 30 s left"
    assert second == "ranks: 50%, 1.00 GB/s, 20 s left"


def test_what_is_read_at_once_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ranks", 10**9) as progress:
        clock.now += 9
        progress.update(10**9)
    assert capsys.readouterr().err == ""


def test_a_start_does_not_count_as_the_pace_of_the_steps(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("grpo", 4, "step", "starting")
    clock.now += 60
    progress.update(0)
    progress.note = "loss 0.500"
    clock.now += 60
    progress.update(1)
    for _ in range(2):  # once only is the end reported
        clock.now += 9
        progress.update(3)
    clock.now += 1
    progress.update(4)
    progress.update(4)
    assert capsys.readouterr().err.splitlines() == [
        "grpo: step 0/4, starting",
        "grpo: step 1/4, loss 0.500",
        "grpo: step 3/4, loss 0.500, 9 s left",
        "grpo: step 4/4, loss 0.500",
    ]


def test_a_loop_is_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("sampling", 3, "pair")
    assert list(progress) == [0, 1, 2]
    assert capsys.readouterr().err == "sampling: pair 3/3\n"


def test_requests_are_added_up(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("gsm8k", 5, "answer") as progress:
        for count in (2, 0, 3):
            progress.advance(count)
    assert capsys.readouterr().err == "gsm8k: answer 5/5\n"
