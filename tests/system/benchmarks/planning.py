"""How long Snakemake takes to plan a large experiment.

Nothing is run, nothing fetched. Needs Snakemake's environment alone.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
NAME = "large"


def experiment(checkpoints: int) -> str:
    """An experiment of so many checkpoints, all tuned from the first: updates, masks, overlaps of
    neighbours and with a random mask, scores of all, tables and figures of all updates."""
    tuned = [f"model{k:04d}" for k in range(1, checkpoints)]
    shown = [{"update": name, "algorithm": "GRPO"} for name in tuned]
    marked = [{**row, "on_policy": True, "kl": False, "online": True} for row in shown]
    neighbours = itertools.pairwise(tuned)
    value = {
        "checkpoints": {
            name: {"hub": f"owner/{name}", "revision": "main"} for name in ("model0000", *tuned)
        },
        "updates": {name: {"before": "model0000", "after": name} for name in tuned},
        "masks": {f"random_{name}": {"random": name, "seed": 1} for name in tuned},
        "overlaps": {f"{one}_{other}": {"masks": [one, other]} for one, other in neighbours}
        | {f"chance_{name}": {"masks": [name, f"random_{name}"]} for name in tuned},
        "benchmarks": {"math500": {"task": "math500", "revision": "0" * 40}},
        "evaluation": {name: {"benchmarks": ["math500"]} for name in ("model0000", *tuned)},
        "tables": {
            "table_1_update_sparsity": {"updates": marked},
            "table_2_update_rank": {"updates": shown},
            "table_4_overlap": {
                "overlaps": [{"overlap": f"chance_{name}", "label": name} for name in tuned]
            },
            "table_6_tolerance_sweep": {"updates": shown},
        },
        "figures": {"figure_3_layerwise_sparsity": {"updates": shown}},
    }
    return yaml.safe_dump(value, sort_keys=False)


def copy_workflow(folder: Path, checkpoints: int) -> None:
    """The workflow alone in `folder`, with that experiment."""
    for part in ("src", "workflow", "envs", "profiles"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / part, folder / part)
    (folder / "experiments").mkdir()
    (folder / "experiments" / f"{NAME}.yaml").write_text(experiment(checkpoints))


def main() -> None:
    """Plan experiments of growing size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="*", type=int, default=[125, 250, 500])
    options = parser.parse_args()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for checkpoints in options.checkpoints:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            copy_workflow(folder, checkpoints)
            command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"]
            command += ["--cores", "1", "--config", f"experiment={NAME}"]
            started = time.perf_counter()
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        total = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("total ")]
        print(
            f"{checkpoints} checkpoints: {total[0] if total else '?'} jobs planned in "
            f"{seconds:.1f} s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
