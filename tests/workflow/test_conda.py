"""Under `--sdm conda` Snakemake builds the environments from envs/*.yaml and runs jobs in them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from running import ROOT, copy_checkout, run_snakemake

from subnetworks.core.environment import environments

# All stages on a CPU, and the experiment whose jobs need them.
STAGES = {
    "measure": "mini",
    "figures": "mini",
    "train-cpu": "mini",
    "evaluate-cpu": "mini",
    "download": "paper",
}


@pytest.mark.skipif(
    not shutil.which("conda"),
    reason="no conda here: what it would build is checked against the locks, not built",
)
def test_conda_builds_every_stage_and_a_job_runs_in_its_own(tmp_path: Path) -> None:
    checkout, prefix = tmp_path / "checkout", tmp_path / "conda"
    copy_checkout(checkout)
    (checkout / ".venvs").unlink(missing_ok=True)
    conda = ["--cores", "1", "--sdm", "conda", "--conda-prefix", str(prefix)]
    for experiment in sorted(set(STAGES.values())):
        chosen = ["--config", f"experiment={experiment}", "--conda-create-envs-only"]
        done = run_snakemake(*conda, *chosen, folder=checkout)
        assert done.returncode == 0, done.stdout + done.stderr

    built = {file.read_text(): file.with_suffix("") for file in prefix.glob("*.yaml")}
    for stage in STAGES:
        python = built[(ROOT / "envs" / f"{stage}.yaml").read_text()] / "bin" / "python"
        for package in environments()[stage]["imports"]:
            subprocess.run([python, "-c", f"import {package}"], check=True)

    # The command line refuses to run under another interpreter than the stage's.
    mini = yaml.safe_load((ROOT / "experiments" / "mini.yaml").read_text())
    name = next(name for name, entry in mini["benchmarks"].items() if "make" in entry)
    made = f"results/mini/benchmarks/{name}/manifest.json"
    done = run_snakemake(*conda, "--", made, folder=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / made).exists()
