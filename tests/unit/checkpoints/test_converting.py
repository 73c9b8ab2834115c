"""Checkpoints of other formats written as folders that transformers loads."""

import json

import numpy as np
import pytest

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from calling import run  # noqa: E402
from checkpoints_made import save  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints import converting  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.training.runtime.finish import shapes  # noqa: E402

CONFIG = {"model_type": "llama", "vocab_size": 11, "tie_word_embeddings": False}


def model(seed=0):
    torch.manual_seed(seed)
    return {
        "model.embed_tokens.weight": torch.randn(11, 4).bfloat16(),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4).bfloat16(),
        "model.layers.0.input_layernorm.weight": torch.randn(4),
        "lm_head.weight": torch.randn(11, 4).half(),
    }


def folder(path, state):
    path.mkdir()
    torch.save(state, path / "pytorch_model.bin")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text('{"a": 1}')
    return path


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def assert_holds(path, state):
    with checkpoints.open(path) as found:
        assert {name: found[name].raw().tobytes() for name in found.names} == {
            name: bits(tensor) for name, tensor in state.items()
        }
        assert {name: found[name].shape for name in found.names} == {
            name: tuple(tensor.shape) for name, tensor in state.items()
        }


def test_a_file_of_torch_becomes_safetensors_with_what_lies_beside_it(tmp_path):
    source = folder(tmp_path / "bin", model())
    run("convert", source, "--output", tmp_path / "out")
    assert_holds(tmp_path / "out", model())
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG
    assert (tmp_path / "out/tokenizer.json").read_text() == '{"a": 1}'
    assert not list((tmp_path / "out").glob("*.bin"))
    from safetensors.torch import load_file

    state = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in model().items())
    # Again, over its own output.
    run("convert", source, "--output", tmp_path / "out")
    assert len(shapes(tmp_path / "out")) == 4


def test_wrappers_go_and_large_ones_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "_FILE", 100)
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in model().items()}
    notes = converting.convert(folder(tmp_path / "bin", {"model": wrapped}), tmp_path / "out")
    assert_holds(tmp_path / "out", model())
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model())
    assert index["weight_map"]["lm_head.weight"] == "model-00003-of-00003.safetensors"
    assert any("'_orig_mod.' stripped from 4 names" in note for note in notes)


def test_what_has_no_configuration_says_so(tmp_path):
    torch.save(model(), tmp_path / "model.pt")
    assert "no config.json" in run("convert", tmp_path / "model.pt", "--output", tmp_path / "out")
    with pytest.raises(UserError, match=r"write it as such: subnetworks convert .*out --output"):
        shapes(tmp_path / "out")


def test_what_cannot_be_copied_is_refused_by_name(tmp_path):
    source = folder(tmp_path / "bin", model() | {"c": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(UserError, match=r"tensor 'c'.*complex64.*cannot be copied"):
        converting.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_output_meets_the_source(tmp_path):
    source = folder(tmp_path / "bin", model())
    for output in (source, source / "out", tmp_path):
        with pytest.raises(UserError):
            converting.convert(source, output)
    assert sorted(path.name for path in source.iterdir()) == [
        "config.json",
        "pytorch_model.bin",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("loadable", [False, True])
def test_fetch_links_and_writes_only_what_would_not_be_loaded(tmp_path, loadable):
    options = ["--loadable"] if loadable else []
    run("fetch", folder(tmp_path / "bin", model()), "--output", tmp_path / "out", *options)
    assert_holds(tmp_path / "out", model())
    assert (tmp_path / "out/model.safetensors").is_file() == loadable
    assert (tmp_path / "out/pytorch_model.bin").is_symlink() != loadable
    run("convert", tmp_path / "bin", "--output", tmp_path / "safe")
    run("fetch", tmp_path / "safe", "--output", tmp_path / "linked", *options)
    assert (tmp_path / "linked/model.safetensors").is_symlink()


def adapter(path):
    path.mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    a, b = np.eye(1, 4, dtype=np.float32), np.ones((4, 1), np.float32)
    weights = {f"{stem}A.weight": a, f"{stem}B.weight": b}
    save(
        path / "adapter_model.safetensors",
        {name: ("F32", value.view(np.uint32)) for name, value in weights.items()},
    )
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 2}')
    (path / "tokenizer.json").write_text('{"b": 2}')
    return path


@pytest.mark.parametrize("verb", ["fetch", "convert"])
def test_an_adapter_is_merged_and_brings_its_tokenizer(tmp_path, verb):
    base, tuned = folder(tmp_path / "base", model()), adapter(tmp_path / "lo@ra")
    if verb == "fetch":
        run("fetch", tuned, "--base", base, "--output", tmp_path / "out")
    else:
        run("convert", f"adapter:{tuned}@{base}", "--output", tmp_path / "out")
    expected = model()
    weight = expected["model.layers.0.self_attn.q_proj.weight"].float()
    weight[:, 0] += 2
    expected["model.layers.0.self_attn.q_proj.weight"] = weight.bfloat16()
    assert_holds(tmp_path / "out", expected)
    assert (tmp_path / "out/tokenizer.json").read_text() == '{"b": 2}'
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG


def test_an_adapter_alone_is_not_taken_for_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"an adapter.*base"):
        checkpoints.fetch(str(adapter(tmp_path / "lora")), tmp_path / "out")
