"""LoRA adapters, read as peft merges them: peft itself is the reference."""

import contextlib
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from subnetworks.checkpoints import open as open_checkpoint  # noqa: E402

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MATRICES = ["q_proj", "v_proj", "up_proj", "down_proj"]


def llama(tied=False):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=67,
        hidden_size=24,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=67, n_embd=24, n_layer=2, n_head=3, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


def train(model, folder, trained_in=None, **options):
    """Save the model, and an adapter to it whose weights are all other than at the start."""
    model.save_pretrained(folder / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
                parameter.data = parameter.data.to(trained_in or parameter.dtype)
    adapted.save_pretrained(folder / "adapter")


def merged_by_peft(folder):
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype="auto")
    return peft.PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()


def as_torch(tensor):
    width = {2: torch.int16, 4: torch.int32}[tensor.itemsize]
    bits = torch.from_numpy(tensor.raw().view(f"i{tensor.itemsize}").copy())
    assert bits.dtype == width
    return bits.view(DTYPES[tensor.dtype]).reshape(tensor.shape)


def compare(folder):
    """Every tensor is peft's, to the last bit; returns the names of those the adapter changes."""
    reference = merged_by_peft(folder)
    expected = reference.state_dict()
    source = f"adapter:{folder / 'adapter'}@{folder / 'base'}"
    with open_checkpoint(source) as merged, open_checkpoint(folder / "base") as base:
        found = {name: as_torch(merged[name]) for name in merged.names}
        before = {name: as_torch(base[name]) for name in base.names}
        tied = merged.config["tie_word_embeddings"]
    # transformers saves a tied head once, and counts it twice.
    assert {*found, "lm_head.weight"} == {*expected, "lm_head.weight"}
    assert "lm_head.weight" in found or tied
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
    head, embedding = expected["lm_head.weight"], reference.get_input_embeddings().weight
    assert tied == torch.equal(head, embedding)
    return {n for n, tensor in found.items() if n not in before or not tensor.equal(before[n])}


@pytest.mark.parametrize("trained_in", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("stored_in", ["BF16", "F16", "F32"])
def test_every_dtype_is_merged_as_peft_does(stored_in, trained_in, tmp_path):
    train(
        llama().to(DTYPES[stored_in]),
        tmp_path,
        DTYPES[trained_in],
        r=8,
        lora_alpha=13,
        target_modules=MATRICES,
    )
    assert len(compare(tmp_path)) == 2 * len(MATRICES)


OPTIONS = {
    "rank-stabilised": {"use_rslora": True, "r": 5},
    "patterns": {
        "r": 4,
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 7},
        "alpha_pattern": {r"^model\.layers\.0\.mlp\.up_proj": 3},
    },
    "orthogonal": {"init_lora_weights": "orthogonal", "r": 4},
    "large": {"r": 24, "lora_alpha": 1},
    "head saved whole": {"modules_to_save": ["lm_head"]},
    "norms saved whole": {"modules_to_save": ["norm"]},
    "embedding saved whole": {"modules_to_save": ["embed_tokens"]},
    "both saved whole": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_merged_as_peft_does(options, tied, tmp_path):
    options = {"target_modules": MATRICES, "lora_alpha": 16, **options}
    train(llama(tied).to(torch.bfloat16), tmp_path, **options)
    assert compare(tmp_path)


def test_both_of_tied_embedding_and_head_are_adapted(tmp_path):
    train(llama(tied=True).bfloat16(), tmp_path, target_modules=["embed_tokens", "lm_head"])
    assert compare(tmp_path) == {"model.embed_tokens.weight"}


@pytest.mark.parametrize("said", [True, False])
def test_transposed_matrices_square_ones_too(said, tmp_path):
    # Of GPT-2 c_proj is square, and all but lm_head are stored transposed.
    train(gpt2().to(torch.bfloat16), tmp_path, r=4, target_modules=["c_attn", "c_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "fan_in_fan_out": said}))
    with contextlib.suppress(UserWarning):
        changed = compare(tmp_path)
    assert len(changed) == 2 * 3


def test_any_part_is_read_as_the_whole_is(tmp_path):
    train(llama().to(torch.bfloat16), tmp_path, target_modules=[*MATRICES, "embed_tokens"])
    with open_checkpoint(f"adapter:{tmp_path / 'adapter'}@{tmp_path / 'base'}") as merged:
        for name in merged.names:
            tensor = merged[name]
            whole = tensor.raw()
            for start in range(0, tensor.n, 97):
                stop = min(start + 61, tensor.n)
                assert (tensor.raw(start, stop) == whole[start:stop]).all(), name


def test_an_adapter_saved_by_torch(tmp_path):
    train(llama().to(torch.bfloat16), tmp_path, target_modules=["q_proj"])
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    adapted.save_pretrained(tmp_path / "adapter", safe_serialization=False)
    assert (tmp_path / "adapter" / "adapter_model.bin").exists()
    assert len(compare(tmp_path)) == 2


def test_an_adapter_on_an_adapter(tmp_path):
    train(llama().float(), tmp_path, target_modules=["q_proj"])
    merged_by_peft(tmp_path).save_pretrained(tmp_path / "second" / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second" / "base")
    train(model, tmp_path / "second", target_modules=["v_proj"], r=3)
    expected = merged_by_peft(tmp_path / "second").state_dict()
    first = f"adapter:{tmp_path / 'adapter'}@{tmp_path / 'base'}"
    with open_checkpoint(f"adapter:{Path(tmp_path, 'second', 'adapter')}@{first}") as merged:
        for name in merged.names:
            assert torch.equal(as_torch(merged[name]), expected[name]), name


REFUSED = {
    "DoRA": (lambda: peft.LoraConfig(use_dora=True, target_modules=["q_proj"]), "DoRA"),
    "bias": (lambda: peft.LoraConfig(bias="all", target_modules=["q_proj"]), "bias"),
    "LoHa": (lambda: peft.LoHaConfig(target_modules=["q_proj"]), "LOHA"),
    "IA3": (
        lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
        "IA3",
    ),
    "PiSSA": (
        lambda: peft.LoraConfig(init_lora_weights="pissa", target_modules=["q_proj"]),
        "pissa",
    ),
    "tokens": (
        lambda: peft.LoraConfig(trainable_token_indices=[1, 2], target_modules=["q_proj"]),
        "trainable_token_indices",
    ),
    "replicated layers": (
        lambda: peft.LoraConfig(layer_replication=[(0, 2), (1, 2)], target_modules=["q_proj"]),
        "layer_replication",
    ),
}


@pytest.mark.parametrize(("config", "word"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_lora_is_refused_by_name(config, word, tmp_path):
    from subnetworks.core.errors import UserError

    model = llama()
    model.save_pretrained(tmp_path / "base")
    peft.get_peft_model(model, config()).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=word) as refused:
        open_checkpoint(f"adapter:{tmp_path / 'adapter'}@{tmp_path / 'base'}")
    assert "\n" not in str(refused.value) and "merge_and_unload" in str(refused.value)
