#!/usr/bin/env python3
"""Run the suite and sum it up in one line: `python tests/run.py [tests/PATH] [PYTEST ARGUMENTS]`.

Every environment runs the unit tests it has the packages for and no earlier one had; beside them
Snakemake's environment runs the workflow tests, the miniature from end to end among them. A test
that no environment could run is counted as skipped and named with its reason. Standard library
only.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
# In this order: what several can run is run where it starts fastest.
UNIT = ("measure", "figures", "download", "snakemake", "parity", "train-cpu", "evaluate-cpu")
WORKFLOW = "snakemake"
THROUGH_SNAKEMAKE = ("tests/workflow", "tests/system")
NO_TESTS_COLLECTED = 5
INTERRUPTED = threading.Event()


def run_pytest(
    name: str, folder: str, arguments: list[str], outcomes: Path, output: IO[str] | None
) -> int:
    """pytest's exit status for the tests in `folder`, under the environment `name`.

    What it prints goes to `output`, if there is one.
    """
    bin_folder = ROOT / ".venvs" / name / "bin"
    print(f"\n── {folder} in the environment {name}", file=output, flush=True)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(bin_folder.parent),
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "SUBNETWORKS_TEST_OUTCOMES": str(outcomes),
    }
    # Skips are reported once, at the end: most of them ran in another environment.
    command = [str(bin_folder / "python"), "-m", "pytest", "-q", "-rfE", folder]
    command += ["--durations=10", "--durations-min=30", *arguments]
    if output:  # Threads that wait for one another would take the core of what runs beside.
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    return 0 if done.returncode == NO_TESTS_COLLECTED else done.returncode


def run_folder(folder: str, arguments: list[str], outcomes: Path, beside: bool) -> list[str]:
    """Run the tests in `folder` in all their environments; returns in which of them some failed.

    Args:
        beside: others run, too. What each environment prints is shown when it has ended.
    """
    failed: list[str] = []
    for name in [WORKFLOW] if folder.startswith(THROUGH_SNAKEMAKE) else UNIT:
        if INTERRUPTED.is_set():
            break
        with tempfile.TemporaryFile("w+") if beside else nullcontext() as output:
            if run_pytest(name, folder, arguments, outcomes, output):
                failed.append(f"{folder} in {name}")
            if output:
                output.seek(0)
                print(output.read(), end="", flush=True)
    return failed


def summary(lines: list[str]) -> tuple[Counter[str], dict[str, str]]:
    """Final outcomes counted, and the reason of each test or module that ran nowhere.

    `lines` are JSON objects with test, outcome, reason, in the order of the runs. A failure counts
    wherever it happened; a skip only if the test was run nowhere else.
    """
    rank = {"skipped": 0, "passed": 1, "failed": 2}
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for line in map(json.loads, lines):
        test, outcome = line["test"], line["outcome"]
        if rank[outcome] >= rank.get(outcomes.get(test, ""), -1):
            outcomes[test] = outcome
        reasons[test] = line["reason"]
    # A module skipped as a whole in one environment has tests of its own in another.
    modules = {test.split("::")[0] for test in outcomes if "::" in test}
    outcomes = {
        test: outcome
        for test, outcome in outcomes.items()
        if outcome == "failed" or test not in modules
    }
    skipped = {test: reasons[test] for test, outcome in outcomes.items() if outcome == "skipped"}
    return Counter(outcomes.values()), skipped


def main(arguments: list[str]) -> int:
    """Run everything, even after a failure; 0 only if every run of pytest succeeded."""
    started = time.monotonic()
    paths = [argument for argument in arguments if argument.startswith("tests/")]
    options = [argument for argument in arguments if argument not in paths]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.jsonl"
        outcomes.touch()
        if paths:
            found = [run_folder(path, options, outcomes, beside=False) for path in paths]
        else:
            # The miniature waits for one process at times, and most unit tests are one.
            with ThreadPoolExecutor() as threads:
                unit = threads.submit(run_folder, "tests/unit", options, outcomes, beside=True)
                try:
                    found = [run_folder("tests/workflow", options, outcomes, beside=False)]
                    found.append(unit.result())
                except KeyboardInterrupt:
                    INTERRUPTED.set()
                    raise
        failed = [part for parts in found for part in parts]
        counts, skipped = summary(outcomes.read_text().splitlines())
    print("\n── the whole suite")
    for test, reason in sorted(skipped.items()):
        print(f"SKIPPED {test}: {reason.removeprefix('Skipped: ')}")
    for part in failed:
        print(f"FAILED {part}")
    words = ", ".join(
        f"{counts[key]} {key}" for key in ("failed", "passed", "skipped") if counts[key]
    )
    print(f"{words or 'no tests ran'} in {time.monotonic() - started:.0f} s")
    return 1 if failed or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
