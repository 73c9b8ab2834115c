"""Jobs shared out among threads, with progress on stderr."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from subnetworks.core.progress import Progress

Job = TypeVar("Job")


def share_out(
    what: str,
    jobs: Sequence[Job],
    size: Callable[[Job], int],
    worker: Callable[[], Callable[[Job], None]],
    threads: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Have every job done by one of several threads; returns the bytes of all.

    Args:
        what: what is being done, for the progress.
        jobs: begun in this order.
        size: a job's bytes.
        worker: makes what does a thread's jobs; called once in each, so that it may hold buffers.
        threads: how many; as many as cores by default.
        meanwhile: called now and then by the thread that waits.

    Raises:
        BaseException: the first that a job raised; the jobs left are not begun then.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    failures: list[BaseException] = []
    lock = threading.Lock()
    done = 0

    def work() -> None:
        nonlocal done
        try:
            run = worker()
            while not failures:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                run(job)
                with lock:
                    done += size(job)
        except BaseException as error:
            failures.append(error)

    total = sum(map(size, jobs))
    pool = [
        threading.Thread(target=work, daemon=True)
        for _ in range(max(1, threads or os.cpu_count() or 1))
    ]
    with Progress(what, total) as progress:
        try:
            for thread in pool:
                thread.start()
            for thread in pool:
                while thread.is_alive():
                    thread.join(0.2)
                    progress.update(done)
                    meanwhile()
        except BaseException as error:
            failures.append(error)
            for thread in pool:
                if thread.ident:
                    thread.join()
            raise
    if failures:
        raise failures[0]
    return total
