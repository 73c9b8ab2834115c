"""Models of the layouts of Llama, Qwen2.5 and Mistral, with chat templates like theirs, through
supervised, preference and on-policy runs, on data from a file, a mixture and the Hub."""

import csv
import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

from safetensors.torch import load_file  # noqa: E402
from tiny_layouts import LAYOUTS, SOURCES, make_model  # noqa: E402

from subnetworks.core.files import sha256  # noqa: E402
from subnetworks.training.data.conversations import load_tokenizer  # noqa: E402
from subnetworks.training.runtime.run import train  # noqa: E402

BASE = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2, "validate_every": 1}
SETTINGS = {
    "sft": {"algorithm": "sft", **BASE, "max_length": 256},
    "dpo": {"algorithm": "dpo", **BASE, "max_length": 256},
    "grpo": {
        "algorithm": "grpo",
        **BASE,
        "samples_per_prompt": 2,
        "max_prompt_length": 128,
        "max_response_length": 8,
        "reward": "random",
    },
}
GIVES = {"sft": "conversations", "dpo": "preferences", "grpo": "problems"}
# Every layout and every algorithm meets every source.
PAIRS = list(itertools.product(enumerate(LAYOUTS), enumerate(SETTINGS)))


def run(folder, settings, data, name="end"):
    train(
        settings,
        init=folder / "init",
        data=data,
        output=folder / name,
        run_folder=folder / "runs" / name,
    )
    with open(folder / "runs" / name / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows


@pytest.mark.parametrize(
    ("layout", "algorithm", "source"),
    [(layout, algorithm, SOURCES[(i + j) % 3]) for (i, layout), (j, algorithm) in PAIRS],
)
def test_each_layout_is_trained_by_each_kind_of_algorithm(layout, algorithm, source, tmp_path):
    tokenizer = make_model(tmp_path / "init", layout)
    data = source(tmp_path, GIVES[algorithm])
    rows = run(tmp_path, SETTINGS[algorithm], data)
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(("validation_loss" in row) == (algorithm != "grpo") for row in rows)
    assert all(("validation_accuracy" in row) == (algorithm != "sft") for row in rows)
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("init", "end"))
    assert {n: x.shape for n, x in before.items()} == {n: x.shape for n, x in after.items()}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert "model.layers.1.mlp.down_proj.weight" in changed
    if (
        layout == "mistral" and algorithm == "sft"
    ):  # no padding token, whose part the end would play
        embedding = "model.embed_tokens.weight"
        moved = (before[embedding] != after[embedding]).any(1)
        assert tokenizer.pad_token is None
        assert moved[tokenizer.eos_token_id]
    asked = [{"role": "user", "content": "1+1?"}]
    first, last = (load_tokenizer(tmp_path / name) for name in ("init", "end"))
    assert first.apply_chat_template(asked) == last.apply_chat_template(asked)
    if layout == "qwen":  # measuring rows held out leaves training as it is, to the bit
        alone = run(tmp_path, SETTINGS[algorithm] | {"validate_every": 0}, data, "alone")
        assert not any("validation" in name for name in alone[0])
        assert [row["loss"] for row in alone] == [row["loss"] for row in rows]
        once, again = (sha256(tmp_path / n / "model.safetensors") for n in ("end", "alone"))
        assert once == again
