"""What the workflow plans, without running anything."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ARTEFACTS, ROOT, planned, run_snakemake


def test_every_artefact_is_a_named_target_with_a_line_on_it() -> None:
    listed = run_snakemake("--list-target-rules").stdout
    for name in ARTEFACTS:
        assert re.search(rf"^{name} \(.{{20,}}\)$", listed, re.MULTILINE), name


@pytest.mark.parametrize(
    "experiment", sorted(p.stem for p in (ROOT / "experiments").glob("*.yaml"))
)
def test_every_shipped_experiment_can_be_planned(copy: Path, experiment: str) -> None:
    jobs = planned(
        run_snakemake(
            "-n", "--cores", "1", "--forceall", "--config", f"experiment={experiment}", folder=copy
        )
    )
    assert jobs["measure"] > 0


@pytest.mark.parametrize("experiment", ["paper_runs", "workstation"])
def test_what_is_for_gpus_is_planned_for_them_with_an_estimate(copy: Path, experiment: str) -> None:
    config = ("--config", f"experiment={experiment}", "accelerator=cuda")
    done = run_snakemake("-n", "--cores", "1", *config, folder=copy)
    assert planned(done)["train"] > 0
    assert re.search(rf"^{experiment} on cuda: estimates for 1 device", done.stderr, re.MULTILINE)
    runs = yaml.safe_load((copy / "experiments" / f"{experiment}.yaml").read_text())["runs"]
    for name in runs:
        assert re.search(rf"^train {name} +(\d|unknown)", done.stderr, re.MULTILINE), name


def test_a_dry_run_estimates_the_jobs_that_it_plans_and_no_others(copy: Path) -> None:
    (copy / "results").unlink(missing_ok=True)
    done = run_snakemake("-n", "-p", "--cores", "1", "figure_1_sft_vs_rl", folder=copy)
    assert planned(done)["train"] == 3
    _, _, said = done.stderr.partition("mini on cpu: estimates for ")
    jobs = re.findall(r"^(train|sample|evaluate|download) (\w+)", said, re.MULTILINE)
    assert jobs == [("train", "sft"), ("train", "grpo"), ("train", "dpo")]
    assert re.search(r"^all 3 +\d", said, re.MULTILINE)
    # No job reads what is only reckoned with: another speed trains nothing anew.
    commands = re.findall(r"--accelerator (\S+)", done.stdout + done.stderr)
    assert commands
    assert not [text for text in commands if "speed" in text]


def test_a_single_figure_plans_only_what_it_needs(copy: Path) -> None:
    (copy / "results").unlink(missing_ok=True)
    jobs = planned(run_snakemake("-n", "--cores", "1", "figure_1_sft_vs_rl", folder=copy))
    assert jobs["figure_1_sft_vs_rl"] == 1
    assert jobs["measure"] == 3  # SFT, GRPO, DPO
    assert jobs["train"] == 3
    assert not {"evaluate", "overlap", "rank", "table_1_update_sparsity"} & jobs.keys()


def test_a_table_that_the_experiment_does_not_ask_for_is_said_to_lack_results(copy: Path) -> None:
    lacks = "without results of ours: experiments/paper.yaml does not ask for it"
    for table, expected in (("table_4_overlap", True), ("table_1_update_sparsity", False)):
        arguments = ("-n", "--cores", "1", table, "--config", "experiment=paper")
        done = run_snakemake(*arguments, folder=copy)
        assert planned(done)[table] == 1
        assert (f"Writing {table} {lacks}" in done.stdout + done.stderr) == expected


def sections(copy: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The miniature and its controls."""
    whole = yaml.safe_load((copy / "experiments" / "mini.yaml").read_text())
    return whole, whole["controls"]


def test_all_leaves_out_the_controls_and_controls_makes_them(copy: Path) -> None:
    """On an empty folder, so that nothing counts as made."""
    (copy / "results").unlink(missing_ok=True)
    main, controls = sections(copy)
    artefacts = {*controls.get("tables", {}), *controls.get("figures", {})}
    assert all(name.startswith("control_") for name in artefacts)
    everything = planned(run_snakemake("-n", "--cores", "1", folder=copy))
    assert not artefacts & everything.keys()
    assert everything["train"] == len(main["runs"])
    assert everything["overlap"] >= len(main["overlaps"])
    further = planned(run_snakemake("-n", "--cores", "1", "controls", folder=copy))
    assert artefacts <= further.keys()
    assert further["overlap"] >= len(controls["overlaps"])


def test_every_control_is_a_named_target_with_a_line_on_it_and_a_caption() -> None:
    listed = run_snakemake("--list-target-rules").stdout
    modules = [p.stem for p in sorted((ROOT / "src/subnetworks/artefacts").glob("control_*.py"))]
    assert modules
    for name in modules:
        assert re.search(rf"^{name} \(.{{20,}}\)$", listed, re.MULTILINE), name
        assert (ROOT / ".snakemake" / "captions" / f"{name}.rst").read_text(), name


MASKS = """
checkpoints:
  start: { make: base }
datasets:
  demonstrations: { make: demonstrations }
runs:
  sft:
    algorithm: sft
    init: start
    data: demonstrations
    steps: 4
    learning_rate: 1.0e-4
    trajectory_every: 2
masks:
  small: { magnitude: { checkpoint: start, like: sft } }
  principal: { principal: { checkpoint: start, density: 0.1, rank: 4 } }
  early: { early: { run: sft, steps: 2 } }
  both: { union: [small, early] }
"""


def test_a_mask_is_made_of_what_the_experiment_says(copy: Path) -> None:
    (copy / "experiments" / "masked.yaml").write_text(MASKS)
    folder = "results/masked"
    done = run_snakemake(
        *("-n", "-p", "--cores", "1", "--config", "experiment=masked"),
        *("--", f"{folder}/masks/both.safetensors", f"{folder}/masks/principal.safetensors"),
        f"{folder}/trajectories/sft.json",
        folder=copy,
    )
    jobs = planned(done)
    assert (jobs["derive_mask"], jobs["train"], jobs["measure"]) == (4, 1, 1)
    assert jobs["follow_trajectory"] == 1
    for arguments in (
        f"magnitude {folder}/checkpoints/start --like {folder}/masks/sft.safetensors",
        f"principal {folder}/checkpoints/start --density 0.1 --rank 4",
        f"early {folder}/runs/sft/trajectory/step_000002.safetensors",
        f"union {folder}/masks/small.safetensors {folder}/masks/early.safetensors",
    ):
        assert f"subnetworks mask {arguments} --output" in done.stdout, arguments


PREDICTED = """
masks:
  square: { fisher: { run: within, batches: 2, like: sft, in_all: true } }
  both: { product: { run: within, of: [fisher, predicted], batches: 2, density: 0.05 } }
  chance: { predicted: { run: sft, density: 0.05 } }
runs:
  within: { like: sft, mask: chance }
overlaps:
  foreseen: { masks: [sft, both] }
  plain: { masks: [sft, sft] }
"""


def test_masks_before_training_are_made_of_gradients_of_the_run(copy: Path) -> None:
    both = yaml.safe_load(MASKS)
    for section, entries in yaml.safe_load(PREDICTED).items():
        both[section] = {**both.get(section, {}), **entries}
    (copy / "experiments" / "predicted.yaml").write_text(yaml.safe_dump(both))
    folder = "results/predicted"
    config = ("-n", "-p", "--cores", "1", "--config", "experiment=predicted")
    masks = [f"{folder}/masks/{name}.safetensors" for name in ("square", "both", "chance")]
    done = run_snakemake(*config, "--", *masks, f"{folder}/rankings/foreseen.json", folder=copy)
    jobs = planned(done)
    # The run itself is not trained for them, only the one that a mask is to be as dense as.
    assert (jobs["derive_mask"], jobs["measure_gradients"], jobs["train"]) == (3, 1, 1)
    gradients = f"{folder}/gradients/within/2.safetensors"
    start = f"{folder}/checkpoints/start"
    product = f'product {gradients} {start} --set \'of=["fisher","predicted"]\''
    known = 'settings={"learning_rate":0.0001,"steps":4}'
    for arguments in (
        f"mask fisher {gradients} --like {folder}/masks/sft.safetensors --in-all",
        f"mask {product} --density 0.05",
        f"mask predicted {start} --set '{known}' --density 0.05",
        f"ranking {folder}/masks/sft.safetensors {product}",
    ):
        assert f"subnetworks {arguments} --" in done.stdout, arguments
    done = run_snakemake(*config, "--", f"{folder}/rankings/plain.json", folder=copy)
    assert done.returncode != 0
    assert "overlaps.plain: the mask 'sft' is made of no scores" in done.stdout + done.stderr


OWN = """
checkpoints:
  mine: { path: own/mine }
  missing: { path: own/missing }
benchmarks:
  sums: { task: math500, data: own/sums.jsonl }
evaluation:
  mine: { benchmarks: [sums] }
"""


def test_own_files_that_were_overwritten_in_place_are_read_again(copy: Path) -> None:
    (copy / "experiments" / "own.yaml").write_text(OWN)
    (copy / "results").unlink(missing_ok=True)
    weights, rows = copy / "own" / "mine" / "model.safetensors", copy / "own" / "sums.jsonl"
    manifest = copy / "results" / "own" / "checkpoints" / "mine" / "manifest.json"
    scores = "results/own/evaluation/mine/scores.json"
    now = time.time()
    for age, path in enumerate((rows, weights, manifest, copy / scores)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
        os.utime(path, (now + age, now + age))
    folder = weights.parent.stat().st_mtime_ns

    def jobs() -> dict[str, int]:
        arguments = ("-n", "--cores", "1", "--config", "experiment=own", "--", scores)
        return planned(run_snakemake(*arguments, folder=copy))

    assert not jobs().keys() & {"link_checkpoint", "evaluate"}
    for path, rerun in ((rows, {"evaluate"}), (weights, {"link_checkpoint", "evaluate"})):
        with open(path, "r+") as file:  # as rsync --inplace does: the folder does not change
            file.write("[]")
        os.utime(path, (now + 9, now + 9))
        assert jobs().keys() & {"link_checkpoint", "evaluate"} == rerun
    assert weights.parent.stat().st_mtime_ns == folder


def test_a_folder_of_ones_own_that_is_missing_is_named(copy: Path) -> None:
    (copy / "experiments" / "own.yaml").write_text(OWN)
    (copy / "own").mkdir()
    (copy / "own" / "sums.jsonl").touch()
    missing = "results/own/checkpoints/missing/manifest.json"
    done = run_snakemake("-n", "--config", "experiment=own", "--", missing, folder=copy)
    assert done.returncode != 0
    assert "own/missing" in done.stdout + done.stderr


def test_changed_pins_rebuild_the_environment_and_plan_all_that_runs_in_it(copy: Path) -> None:
    (copy / "results").unlink(missing_ok=True)
    lock = copy / "envs" / "locks" / "measure.txt"
    lock.write_text(lock.read_text() + "# another build\n")
    jobs = planned(run_snakemake("-n", "--cores", "1", folder=copy))
    assert jobs["environment"] >= 1
    runs = yaml.safe_load((copy / "experiments" / "mini.yaml").read_text())["runs"]
    assert jobs["train"] == len(runs)
    assert jobs["measure"] > len(runs)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.yaml", "accelerator: cpu", "acelerator: cpu", "did you mean 'accelerator'"),
        ("config.yaml", "accelerator: cpu", "accelerator: tpu", "there are: cpu, cuda"),
        ("config.yaml", "experiment: mini", "experiment: mimi", "there are: mini"),
        ("config.yaml", "accelerator: cpu", "accelerator: cpu\naccelerator: cpu", "is there twice"),
        ("experiments/mini.yaml", "init: sft", "init: stf", "runs.grpo.init"),
        ("experiments/mini.yaml", "data: problems", "data: preferences", "grpo needs problems"),
        ("experiments/mini.yaml", "steps: 60", "steps: 060", "mini.yaml:41: runs.grpo.steps: 060"),
        ("experiments/mini.yaml", "task: math500", "task: math50", "did you mean 'math500'"),
        ("experiments/mini.yaml", "chat: true", "temperature: 1", "has no 'temperature'"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_line(
    copy: Path, file: str, old: str, new: str, words: str
) -> None:
    path = copy / file
    path.write_text(path.read_text().replace(old, new, 1))
    done = run_snakemake("-n", "--cores", "1", folder=copy)
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert words in printed
    assert "Traceback" not in printed


def test_an_experiment_is_no_configuration(copy: Path) -> None:
    done = run_snakemake("-n", "--configfile", "experiments/mini.yaml", folder=copy)
    assert done.returncode != 0
    assert "--config experiment=NAME" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_devices_that_do_not_divide_a_batch_are_refused(copy: Path) -> None:
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("devices: 1", "devices: 3", 1))
    done = run_snakemake("-n", "--cores", "1", folder=copy)
    assert done.returncode != 0
    assert "batch_size (64) must be a multiple of the accelerator's devices (3)" in (
        done.stdout + done.stderr
    )


def test_data_of_ones_own_are_read_by_any_path_and_mixed(copy: Path) -> None:
    (copy / "own").mkdir()
    for name in ("a", "b"):
        (copy / "own" / f"train {name}.jsonl").write_text("{}\n")
    entry = {"path": "own/train *.jsonl", "gives": "preferences", "where": {"level": [1, "{x}"]}}
    base = {"base": {"make": "base"}}
    made = {"make": "foreign_preferences"}
    more = {"made": made, "both": {"mix": {"pairs": 1, "made": 0.5}, "seed": 1}}
    (copy / "experiments" / "own.yaml").write_text(
        yaml.safe_dump({"checkpoints": base, "datasets": {"pairs": entry, **more}})
    )
    done = run_snakemake(
        *("-n", "-p", "--workflow-profile", "none", "--cores", "1", "--config", "experiment=own"),
        *("--", "results/own/data/both/manifest.json"),
        folder=copy,
    )
    jobs = planned(done)
    assert (jobs["read_dataset"], jobs["make_dataset"], jobs["mix_dataset"]) == (1, 1, 1)
    said = done.stdout + done.stderr
    assert "fetch-data 'own/train *.jsonl' --output results/own/data/pairs" in said
    assert (
        "mix --part made=results/own/data/made --part pairs=results/own/data/pairs"
        " --output results/own/data/both --settings "
        """'{"seed":1,"weights":{"made":0.5,"pairs":1}}'"""
    ) in said


def test_the_order_of_keys_reruns_nothing() -> None:
    sys.path.insert(0, str(ROOT / "src"))
    from subnetworks.core.files import canonical_json

    assert canonical_json({"b": 1, "a": [1.5, None]}) == canonical_json({"a": [1.5, None], "b": 1})
    assert json.loads(canonical_json({"a": "é"})) == {"a": "é"}


def test_the_workflow_lints() -> None:
    done = run_snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_under_the_wrong_interpreter_says_so(tmp_path: Path) -> None:
    """SUBNETWORKS_STAGE promises an environment; this interpreter is Snakemake's, not `train`."""
    done = subprocess.run(
        [sys.executable, "-m", "subnetworks", "train", "--help"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "src"),
            "SUBNETWORKS_STAGE": "train-cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "train" in done.stderr and sys.executable in done.stderr


def test_the_number_of_jobs_grows_with_the_number_of_checkpoints(tmp_path: Path) -> None:
    """One by one: nothing is planned for every pair of them."""
    sys.path.insert(0, str(ROOT / "tests" / "system" / "benchmarks"))
    from planning import NAME, copy_workflow

    counts = []
    for checkpoints in (4, 8, 12):
        folder = tmp_path / str(checkpoints)
        folder.mkdir()
        copy_workflow(folder, checkpoints)
        (folder / ".venvs").symlink_to((ROOT / ".venvs").resolve())
        counts.append(
            planned(
                run_snakemake("-n", "--cores", "1", "--config", f"experiment={NAME}", folder=folder)
            )
        )
    first, second, third = counts
    for rule in third:
        assert third[rule] - second[rule] == second[rule] - first[rule], rule
    each = {rule: (third[rule] - first[rule]) / 8 for rule in third}
    assert {rule: n for rule, n in each.items() if n} == {
        **dict.fromkeys(("fetch_checkpoint", "measure", "rank", "derive_mask", "evaluate"), 1),
        "overlap": 2,
    }
