"""The quick part of the fault campaign; `make faults` runs all of it."""

import subprocess
import sys

from running import ENVIRONMENT, ROOT

CAMPAIGN = ROOT / "tests" / "faults" / "campaign.py"


def test_disturbed_stages_end_in_the_same_results_or_in_a_clear_error() -> None:
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--fast"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " faults, 0 wrong, " in done.stdout
