"""Compares pairs of LaTeX answers by math-verify: a program of its own, run by `verifier`.

Prints `true` when it is ready, then reads one JSON line per pair (gold, answer, seconds) from
standard input and answers each with one line: whether they are equal, and the processor time.
A pair is compared in a child with bounded processor time and memory; where the child dies, the
answer is null, and the next child starts with everything imported. Needs nothing of the project, so
that it may run isolated.
"""

import json
import logging
import os
import resource
import signal
import sys
import time

MEMORY = 2 << 30  # bytes of address space beyond what is mapped once all is imported
WARM_UP = ((r"\frac{1}{2}", "0.5"), (r"\sqrt{2}+x^2", r"(1,\pi)"), (r"\{1,2\}", r"[1,\infty)"))


def compare(gold: str, answer: str) -> bool:
    """Whether math-verify holds two LaTeX expressions for equal; false where it reads neither."""
    from math_verify import parse, verify

    found = [parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    return bool(found[0] and found[1] and verify(*found, timeout_seconds=None))


def serve() -> None:
    """Answer until standard input ends; a pair that takes longer than it may ends this process."""
    if os.path.exists("/proc/self/statm"):  # Linux
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while line := _line():
        gold, answer, seconds = json.loads(line)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            found = compare(gold, answer)
        except MemoryError:
            os._exit(1)
        except Exception:  # whatever hostile text may cause: not equal
            found = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer([found, time.process_time() - started])


def _line() -> bytes:
    # Unbuffered: what one child has not asked for is left to the next.
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            return b""
        line += part
    return line


def _answer(found: object) -> None:
    os.write(1, json.dumps(found).encode() + b"\n")


def main() -> int:
    """Import once, then keep one child at work; gives the exit status."""
    logging.disable(logging.CRITICAL)
    for pair in WARM_UP:
        compare(*pair)
    _answer(True)  # ready
    while True:
        child = os.fork()
        if child == 0:
            serve()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return 0
        _answer(None)


if __name__ == "__main__":
    sys.exit(main())
