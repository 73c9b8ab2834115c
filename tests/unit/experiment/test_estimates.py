"""Estimates: the formulas by hand, what is not known by name, and what is printed."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("pydantic")

from subnetworks.checkpoints.hub.client import Content, Entry
from subnetworks.evaluation.tasks import TASKS
from subnetworks.experiment import Experiment, estimates, load, sizes
from subnetworks.experiment.estimates import Estimate
from subnetworks.experiment.models import Machine, Size

SIZE = {"weights": 1.0e9, "layers": 10, "width": 1000, "vocabulary": 50_000}
RUN = {"init": "start", "learning_rate": 1.0e-6, "steps": 100, "batch_size": 8}
LENGTHS = {"max_prompt_length": 100, "max_response_length": 300, "samples_per_prompt": 2}
EXPERIMENT: dict[str, Any] = {
    "checkpoints": {"start": {"hub": "some/model", "size": SIZE}, "other": {"hub": "any/model"}},
    "datasets": {
        "pairs": {"hub": "some/pairs", "gives": "preferences", "rows": 1000},
        "texts": {"hub": "some/texts", "gives": "conversations"},
        "problems": {"hub": "some/problems", "gives": "problems", "rows": 600, "validation": 100},
        "more": {"hub": "more/problems", "gives": "problems", "rows": 300},
        "both": {"mix": {"problems": 1, "more": 2}},
        "answers": {"sample": "both", "policy": "dpo", "samples": 4, "max_response_length": 256},
    },
    "runs": {
        "sft": {**RUN, "algorithm": "sft", "data": "texts", "max_length": 1000},
        "dpo": {**RUN, "algorithm": "dpo", "data": "pairs", "max_length": 500},
        "kto": {**RUN, "algorithm": "kto", "data": "pairs", "steps": None, "epochs": 2},
        "grpo": {**RUN, **LENGTHS, "algorithm": "grpo", "data": "problems", "trajectory_every": 40},
        "kl": {**RUN, **LENGTHS, "algorithm": "grpo", "data": "both", "kl": "loss", "kl_coef": 0.1},
        "ppo": {**RUN, **LENGTHS, "algorithm": "ppo", "data": "problems"},
        "prime": {**RUN, **LENGTHS, "algorithm": "prime", "data": "problems"},
        "prime_kl": {"like": "prime", "kl": "loss", "kl_coef": 0.1},
        "lora_kl": {"like": "kl", "lora_rank": 16},
        "lora_prime": {"like": "prime", "lora_rank": 16},
        "open": {**RUN, "algorithm": "sft", "data": "texts", "steps": None, "epochs": 1},
    },
    "benchmarks": {
        "math500": {"task": "math500", "revision": "0" * 40, "max_tokens": 1000},
        "lsat": {"task": "agieval_lsat_ar", "revision": "0" * 40, "limit": 100},
        "mine": {"task": "math500", "data": "mine.jsonl"},
    },
    "evaluation": {
        "dpo": {"benchmarks": ["math500", "lsat"]},
        "grpo": {"benchmarks": ["mine"]},
    },
}
# Bytes of bfloat16 that a token keeps of a layer, which has 95 million weights, and its logits.
LAYER, LOGITS = (8 * 95_000 + 44 * 1000) / 3, 2 * 50_000 * 2
MACHINE = Machine.model_validate(
    {
        "kind": "cpu",
        "devices": 1,
        "threads": 1,
        "memory_gb": 4,
        "bfloat16": "native",
        "speed": {"training": 2, "sampling": 0.5, "start": 36},
    }
)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT))
    return load(file)


def found(experiment: Experiment, machine: Machine = MACHINE) -> dict[str, Estimate]:
    return {f"{one.rule} {one.name}": one for one in estimates.estimates(experiment, machine, {})}


def seconds(one: Estimate) -> float:
    assert one.hours is not None
    return 3600 * one.hours


def test_time_is_operations_at_the_machines_speed(experiment: Experiment) -> None:
    by = found(experiment)
    tokens = 100 * 8 * 1000
    assert seconds(by["train sft"]) == pytest.approx(36 + 1e9 * 6 * tokens / 2e12)
    # Two answers a pair; all 1,000 pairs are scored once by the init.
    tokens, once = 100 * 16 * 500, 1000 * 2 * 500
    assert seconds(by["train dpo"]) == pytest.approx(36 + 1e9 * (6 * tokens + 2 * once) / 2e12)
    tokens, sampled = 100 * 16 * 400, 100 * 16 * 300
    for run, passes in (
        ("grpo", 6 + 2),
        ("kl", 6 + 2 + 2),
        ("ppo", 2 * 6 + 2 * 2),
        ("prime", 2 * 6 + 3 * 2),
        ("prime_kl", 2 * 6 + 4 * 2),
        ("lora_kl", 6 + 2 + 2),
        ("lora_prime", 2 * 6 + 3 * 2),
    ):
        expected = 36 + 1e9 * passes * tokens / 2e12 + 1e9 * 2 * sampled / 0.5e12
        assert seconds(by[f"train {run}"]) == pytest.approx(expected), run
    read = 500 * 512 + 100 * 512 * 5
    expected = 36 + 1e9 * 2 * read / 2e12 + 1e9 * 2 * 500 * 1000 / 0.5e12
    assert seconds(by["evaluate dpo"]) == pytest.approx(expected)


def test_the_questions_of_public_benchmarks_are_known_but_for_ones_own() -> None:
    assert {task.questions for task in TASKS.values()}.isdisjoint({None, 0})
    parts = [t.questions for name, t in TASKS.items() if name.startswith("mmlu_pro_")]
    assert sum(parts) == TASKS["mmlu_pro"].questions == 12_032


def test_on_gpus_activations_are_computed_again_and_devices_share(experiment: Experiment) -> None:
    cuda = MACHINE.model_copy(update={"kind": "cuda", "devices": 4, "nodes": 2})
    one = found(experiment, cuda)["train sft"]
    assert seconds(one) == pytest.approx(36 + 1e9 * 8 * 100 * 8 * 1000 / 2e12 / 8)
    tokens = 8 * 1000
    kept = tokens * (10 * 2 * 1000 + LAYER + LOGITS)
    assert one.device_gb == pytest.approx((16e9 / 8 + kept) / 1e9)


def test_what_the_machine_does_about_memory_counts(experiment: Experiment) -> None:
    less = {"gradient_checkpointing": True, "tokens_at_once": 2000, "tensor_parallel": 2}
    machine = MACHINE.model_copy(update={**less, "devices": 2})
    by = found(experiment, machine)
    assert seconds(by["train sft"]) == pytest.approx(36 + 1e9 * 8 * 100 * 8 * 1000 / 2e12 / 2)
    kept = 2000 * (10 * 2 * 1000 + LAYER + LOGITS)
    assert by["train sft"].device_gb == pytest.approx(16 / 2 + kept / 1e9)
    assert by["train grpo"].device_gb == pytest.approx(16 / 2 + 2 / 2 + kept / 1e9)
    pairs = 16 * 500  # which stay together
    kept = pairs * (10 * 2 * 1000 + LAYER + LOGITS)
    assert by["train dpo"].device_gb == pytest.approx(16 / 2 + kept / 1e9)


def test_a_layer_keeps_what_llama_keeps_of_its_projections() -> None:
    """Of Llama-3.1-8B's layer: 20 bytes of its width, 8 of its MLP's, 4 of its keys'."""
    width, mlp, keys, layers, words = 4096, 14336, 1024, 32, 128_256
    weights = layers * (2 * width**2 + 2 * width * keys + 3 * width * mlp) + words * width
    size = Size(weights=weights, layers=layers, width=width, vocabulary=words)
    kept = layers * (20 * width + 8 * mlp + 4 * keys) + words * 4
    found = estimates.activations(size, 1, again=False)
    assert kept < found < 1.01 * kept


def test_float32_keeps_twice_as_much_and_emulated_bfloat16_the_weights_too(
    experiment: Experiment,
) -> None:
    native = found(experiment)["train sft"].device_gb
    emulated = found(experiment, MACHINE.model_copy(update={"bfloat16": "emulated"}))
    assert native is not None
    kept = 8 * 1000 * (10 * LAYER + LOGITS)
    assert emulated["train sft"].device_gb == pytest.approx(native + 4 + kept / 1e9)


def test_memory_and_disk(experiment: Experiment) -> None:
    by = found(experiment)
    tokens = 8 * 1000
    kept = tokens * (10 * LAYER + LOGITS)
    assert by["train sft"].device_gb == pytest.approx(16 + kept / 1e9)
    bare = by["train grpo"].device_gb
    assert bare is not None
    for run, more in (("kl", 4), ("ppo", 16), ("prime", 20), ("prime_kl", 20)):
        assert by[f"train {run}"].device_gb == pytest.approx(bare + more), run
    # With adapters the policy without them is the init.
    for run, more in (("lora_kl", 0), ("lora_prime", 16)):
        assert by[f"train {run}"].device_gb == pytest.approx(bare + more), run
    assert by["train sft"].kept_gb == pytest.approx(2)
    assert by["train grpo"].kept_gb == pytest.approx(2 + 2 * 2)  # of steps 40 and 80
    assert by["train sft"].meanwhile_gb == pytest.approx(24)
    assert by["train ppo"].meanwhile_gb == pytest.approx(48)


def test_lengths_in_epochs_are_known_with_the_rows(experiment: Experiment) -> None:
    assert sizes.rows(experiment, "problems") == 500
    assert sizes.rows(experiment, "both") == 450  # 150 of the 500, all 300 of the others
    assert sizes.rows(experiment, "answers") == 450 * 4
    assert sizes.rows(experiment, "texts") is None
    assert sizes.steps(experiment, "kto") == 2 * 2000 // 8  # each pair is two answers
    assert sizes.steps(experiment, "open") is None


def test_what_is_not_known_is_named_and_in_no_sum(experiment: Experiment) -> None:
    by = found(experiment)
    assert by["train open"].hours is None
    assert by["train open"].unknown == (("rows of the data sets", "texts"),)
    assert by["evaluate grpo"].unknown == (("rows of the benchmarks", "mine"),)
    assert by["fetch_checkpoint other"].kept_gb is None
    assert by["fetch_checkpoint other"].unknown == (("size of the checkpoints", "other"),)
    bare = MACHINE.model_copy(update={"speed": MACHINE.speed.model_copy(update={"sampling": None})})
    by = found(experiment, bare)
    assert by["train sft"].hours is not None
    assert by["train grpo"].hours is None
    assert by["train grpo"].unknown == (("speed of the accelerator in", "sampling"),)


def test_a_checkpoint_here_has_the_size_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    header = json.dumps(
        {
            "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]},
        }
    ).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(34)
    (folder / "model.safetensors").write_bytes(data)
    config = {"num_hidden_layers": 2, "hidden_size": 4, "vocab_size": 3}
    (folder / "config.json").write_text(json.dumps(config))
    content = {
        **EXPERIMENT,
        "checkpoints": {
            "start": {"path": str(folder)},
            "tuned": {"path": str(tmp_path / "adapter"), "base": "start"},
            "absent": {"path": str(tmp_path / "none")},
            "made": {"make": "base"},
            "larger": {"make": "base", "width": 256, "layers": 5},
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    experiment = load(tmp_path / "own.yaml")
    size = Size(weights=17, layers=2, width=4, vocabulary=3)
    for name in ("start", "tuned", "dpo"):
        assert sizes.of_checkpoint(experiment, name) == size, name
    assert sizes.of_checkpoint(experiment, "absent") is None
    made = sizes.of_checkpoint(experiment, "made")
    assert made is not None
    assert made.weights == 870_528
    larger = Size(weights=4_101_376, layers=5, width=256, vocabulary=320)
    assert sizes.of_checkpoint(experiment, "larger") == larger


def test_a_download_is_as_large_as_the_lock_says(experiment: Experiment) -> None:
    entry = Entry("0" * 40, {"a": Content(5_000_000_000, "1" * 64)})
    locked = {experiment.hub_source("checkpoints", "other").key: entry}
    by = {one.name: one for one in estimates.estimates(experiment, MACHINE, locked)}
    assert by["other"].kept_gb == 5.0


def test_the_table_sums_and_says_what_is_missing(experiment: Experiment) -> None:
    rows = [
        Estimate("fetch_checkpoint", "a", kept_gb=16.06),
        Estimate("train", "b", 1.5, 20.0, 2.0, 24.0),
        Estimate("train", "c", None, 10.0, None, 12.0, (("rows of the data sets", "texts"),)),
        Estimate("evaluate", "d", 0.01, 2.0),
    ]
    lines = estimates.text(rows, "small", "laptop", MACHINE).splitlines()
    assert lines[0].startswith("small on laptop: estimates for 1 device of 10¹² operations")
    assert "2 (training) and 0.5 (sampling)" in lines[0]
    cells = [line.split() for line in lines[2:]]
    assert cells[:5] == [
        ["download", "a", "16.1"],
        ["train", "b", "1.5", "h", "20.0", "2", "24.0"],
        ["train", "c", "unknown", "10.0", "unknown", "12.0"],
        ["evaluate", "d", "36", "s", "2"],
        ["all", "4", "1.5", "h", "20.0", "18.1", "24.0"],
    ]
    assert lines[7:] == [
        "not known, so that no sum has it: rows of the data sets texts",
        "20 GB exceed the accelerator's memory_gb (4)",
    ]
    assert estimates.text([], "small", "laptop", MACHINE) == ""
    unknown = Estimate("fetch_checkpoint", "e", unknown=(("size of the checkpoints", "e"),))
    last = estimates.text([unknown], "small", "laptop", MACHINE).splitlines()[-1]
    assert "size of the checkpoints e (`snakemake lock` asks the Hub" in last


def test_the_controls_are_told_apart(tmp_path: Path) -> None:
    controls = {"runs": {"late": {"like": "sft", "seed": 1}}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "controls": controls}))
    experiment = load(tmp_path / "more.yaml")
    apart = {
        one.name: estimates.is_control(experiment, one)
        for one in estimates.estimates(experiment, MACHINE, {})
        if one.rule == "train"
    }
    assert [name for name, control in apart.items() if control] == ["late"]
    assert replace(found(experiment)["train late"], name="sft") == found(experiment)["train sft"]
