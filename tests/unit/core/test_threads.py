"""Jobs shared out among threads."""

import threading
import time
from collections.abc import Callable

import pytest

from subnetworks.core.threads import share_out


def test_every_job_is_done_once_by_workers_of_their_own() -> None:
    done: list[int] = []
    workers: list[int] = []

    def worker() -> Callable[[int], None]:
        workers.append(threading.get_ident())

        def run(job: int) -> None:
            assert threading.get_ident() in workers
            done.append(job)

        return run

    assert share_out("counting", range(100), lambda job: job, worker, threads=3) == 4950
    assert sorted(done) == list(range(100))
    assert 1 <= len(workers) <= 3 and threading.get_ident() not in workers


@pytest.mark.parametrize("where", ["a job", "a worker", "the waiting thread"])
def test_an_error_is_raised_and_no_job_begun_after_it(where: str) -> None:
    begun: list[int] = []

    def fail(here: str) -> None:
        if here == where:
            raise OSError(here)

    def worker() -> Callable[[int], None]:
        fail("a worker")

        def run(job: int) -> None:
            begun.append(job)
            time.sleep(0.01)
            if job == 5:
                fail("a job")

        return run

    with pytest.raises(OSError, match=where):
        share_out("", range(10_000), int, worker, 2, lambda: fail("the waiting thread"))
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count < 1000
