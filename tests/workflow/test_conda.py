"""Under `--sdm conda` Snakemake builds the environments from envs/*.yaml and runs jobs in them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from running import ENVIRONMENT, ROOT, copy_checkout, run_snakemake

from subnetworks.core.environment import environments

# All stages on a CPU, and the experiment whose jobs need them.
STAGES = {
    "measure": "mini",
    "figures": "mini",
    "train-cpu": "mini",
    "evaluate-cpu": "mini",
    "download": "paper",
}

# What Snakemake asks of a conda, and a note of how it is called.
STAND_IN = """\
#!{python}
import json, os, pathlib, sys
match sys.argv[1:]:
    case ["info", "--json"]:
        print(json.dumps({{"conda_prefix": {folder!r}, "platform": "linux-64"}}))
    case ["--version"]:
        print("conda 26.7.1")
    case ["clean", *_]:
        pass
    case ["config", *_]:
        print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
    case ["env", "create", *_, "--file", file, "--prefix", prefix]:
        python = pathlib.Path(prefix, "bin", "python")
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\\nexport -p > {folder}/job.txt\\n")
        python.chmod(0o755)
        called = {{"file": file, "alone": os.environ.get("PYTHONNOUSERSITE")}}
        pathlib.Path({folder!r}, "called.json").write_text(json.dumps(called))
    case _:
        sys.exit(f"not expected: {{sys.argv}}")
"""


def test_conda_is_handed_the_stages_file_and_jobs_run_in_what_it_made(
    tmp_path: Path,
) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "base"
    copy_checkout(checkout)
    conda = folder / "bin" / "conda"
    conda.parent.mkdir(parents=True)
    conda.write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
    conda.chmod(0o755)
    conda.with_name("activate").write_text('export PATH="$1/bin:$PATH"\n')
    variables = {**ENVIRONMENT, "PATH": f"{conda.parent}:{ENVIRONMENT['PATH']}"}
    variables.pop("PYTHONNOUSERSITE", None)
    options = ["--cores", "1", "--sdm", "conda", "--conda-prefix", str(tmp_path / "conda")]
    target = "results/mini/checkpoints/base/manifest.json"
    done = run_snakemake(*options, "--", target, folder=checkout, variables=variables)
    assert "MissingOutputException" in done.stdout + done.stderr  # its Python does nothing
    called = json.loads((folder / "called.json").read_text())
    assert Path(called["file"]).read_bytes() == (ROOT / "envs" / "measure.yaml").read_bytes()
    assert called["alone"] == "1"
    told = (folder / "job.txt").read_text().replace("'", "").replace('"', "")
    for variable in ("STAGE=measure", "DEPLOYMENT=conda"):
        assert f"SUBNETWORKS_{variable}\n" in told


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
