"""Run Snakemake as a user does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "mini"
ARTEFACTS = (
    "table_1_update_sparsity",
    "table_2_update_rank",
    "table_3_subnetwork_accuracy",
    "table_4_overlap",
    "table_5_in_distribution",
    "table_6_tolerance_sweep",
    "conjecture_1_agreement",
    "section_6_ablations",
    "figure_1_sft_vs_rl",
    "figure_2_gradient_shares",
    "figure_3_layerwise_sparsity",
    "figure_4_training_loss",
    "figure_5_sparsity_over_training",
    "figure_6_outside_final_mask",
    "figure_7_accuracy_and_intervals",
)
"""The paper's tables and figures, a target each."""
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_snakemake(
    *arguments: str, folder: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`snakemake ARGUMENTS` in `folder`; output captured, not checked."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=ENVIRONMENT if variables is None else dict(variables),
    )


def planned(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Jobs by rule in the table that a dry run prints; empty if there is nothing to do."""
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    if "Nothing to be done" in text:
        return {}
    lines = text.split("Job stats:\n", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    counts = {line.split()[0]: int(line.split()[1]) for line in lines}
    counts.pop("total")
    return counts


def copy_checkout(folder: Path) -> None:
    """A copy of this checkout's workflow, with its environments and without its results."""
    folder.mkdir(exist_ok=True)
    for name in ("src", "workflow", "envs", "experiments", "profiles", "Snakefile", "config.yaml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    if (ROOT / ".venvs").exists():
        (folder / ".venvs").symlink_to(ROOT / ".venvs")
