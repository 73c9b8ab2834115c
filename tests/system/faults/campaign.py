#!/usr/bin/env python3
"""Run a small experiment, disturb it, rerun it: `python tests/system/faults/campaign.py [--fast]`.

One fault at a time, each from the finished experiment with the disturbed stage's results removed.
Afterwards all final results must equal those of the undisturbed run, or a line on the terminal must
have said what is wrong and what to do. Meanwhile a watcher parses every file with a final name.
Prints a table; the exit status is 0 if nothing went wrong. Standard library only; run by
Snakemake's interpreter, with the stages' environments built (`make environments`).
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import experiment
import faults
from trial import Campaign, Row, table
from watcher import Watcher
from workspace import Workspace


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="a subset, without GRPO and evaluation")
    parser.add_argument("--only", default="", help="faults whose `name | stage` this pattern finds")
    parser.add_argument("--folder", type=Path, help="where to work (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="use a finished run in --folder")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="subnetworks-faults-"))
    try:
        work = Workspace(folder, experiment.NAME, experiment.text(whole=not options.fast))
        with Watcher(work.results) as watcher:
            campaign = Campaign(work, watcher, random.Random(options.seed))
            started = time.monotonic()
            if not (options.keep and (folder / "saved").exists()):
                done = campaign.everything()
                if done.status:
                    print(done.output, file=sys.stderr)
                    return 1
                work.save()
            else:
                campaign.restore()
            campaign.reference = work.digests()
            print(
                f"undisturbed: {len(campaign.reference)} results in "
                f"{time.monotonic() - started:.0f} s; the watcher parsed {watcher.files} versions "
                f"of files in {watcher.rounds} rounds, {len(watcher.broken)} of them not whole",
                flush=True,
            )
            for broken in watcher.broken:
                campaign.rows.append(Row("none", "all", f"WRONG: half-written: {broken}", 0, True))
            for fault in faults.chosen(campaign, fast=options.fast, words=options.only):
                campaign.attempt(fault.name, fault.stage, fault.act)
            files = watcher.files
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    wrong = [row for row in campaign.rows if row.wrong]
    print(f"\n{table(campaign.rows)}\n")
    print(
        f"{len(campaign.rows)} faults, {len(wrong)} wrong, in {time.monotonic() - started:.0f} s; "
        f"the watcher parsed {files} versions of files"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
