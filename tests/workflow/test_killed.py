"""A GRPO run killed half-way goes on from its last saved step."""

import csv
import json
import signal
from pathlib import Path

from points import Place, Point

EXPERIMENT = """
checkpoints:
  start: { make: base, steps: 4, batch_size: 16 }
datasets:
  problems: { make: problems, rows: 64, test_rows: 16, seed: 5 }
runs:
  killed:
    algorithm: grpo
    init: start
    data: problems
    steps: 12
    batch_size: 4
    samples_per_prompt: 2
    learning_rate: 1.0e-6
    reward: random
    save_every: 4
    trajectory_every: 4
    max_prompt_length: 32
    max_response_length: 8
"""
STEPS, SAVED = 12, 4
# The weights of step 8 are saved by then, the rest of its state and its row of the log are not.
POINT = Point("before", "killed/trajectory/step_000008.safetensors", "kill all")


def test_a_killed_run_resumes_and_nothing_half_written_counts(tmp_path: Path) -> None:
    place = Place(tmp_path, "resume", EXPERIMENT)
    checkpoint = place.results / "checkpoints/killed/manifest.json"
    target = f"results/resume/{checkpoint.relative_to(place.results)}"
    assert place.run("--", target, points=[POINT]) == -signal.SIGKILL
    assert place.reached(POINT)
    place.wait_until_idle()
    assert not checkpoint.exists()
    run = place.results / "runs/killed"
    assert not (run / "log.csv").exists()

    place.unlock()
    assert place.run("--", target) == 0, place.said
    assert checkpoint.exists()
    with (run / "log.csv").open(newline="") as handle:
        assert [int(row["step"]) for row in csv.DictReader(handle)] == list(range(1, STEPS + 1))
    # It went on: the steps before the kill were not trained a second time.
    meta = json.loads((run / "log.csv.meta.json").read_text())
    assert meta["resumed_from_step"] == SAVED
    listed = json.loads((run / "trajectory/manifest.json").read_text())["steps"]
    assert [row["step"] for row in listed] == list(range(SAVED, STEPS + 1, SAVED))
    files = {path.name for path in (run / "trajectory").glob("*step*")}
    assert files == {row["file"] for row in listed}
