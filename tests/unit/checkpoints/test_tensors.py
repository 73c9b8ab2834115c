"""Which layer and which matrix a parameter's name means, across families."""

from collections import Counter
from typing import Any

import pytest

from subnetworks.checkpoints.tensors import is_buffer, is_head, is_token_embedding, place


@pytest.mark.parametrize(
    ("name", "layer", "matrix"),
    [
        # Llama, Qwen, Mistral
        ("model.embed_tokens.weight", None, "embedding"),
        ("model.layers.11.self_attn.q_proj.weight", 11, "Q"),
        ("model.layers.0.self_attn.k_proj.weight", 0, "K"),
        ("model.layers.0.self_attn.v_proj.bias", 0, "bias"),
        ("model.layers.0.self_attn.o_proj.weight", 0, "O"),
        ("model.layers.0.self_attn.q_norm.weight", 0, "norm"),
        ("model.layers.3.mlp.gate_proj.weight", 3, "gate"),
        ("model.layers.3.mlp.up_proj.weight", 3, "up"),
        ("model.layers.3.mlp.down_proj.weight", 3, "down"),
        ("model.layers.3.post_attention_layernorm.weight", 3, "norm"),
        ("model.norm.weight", None, "norm"),
        ("lm_head.weight", None, "head"),
        # inside a larger model, and Phi's fused matrices
        ("model.language_model.layers.5.self_attn.q_proj.weight", 5, "Q"),
        ("model.layers.5.self_attn.qkv_proj.weight", 5, "QKV"),
        ("model.layers.5.mlp.gate_up_proj.weight", 5, "gate_up"),
        # GPT-NeoX
        ("gpt_neox.embed_in.weight", None, "embedding"),
        ("gpt_neox.layers.2.attention.query_key_value.weight", 2, "QKV"),
        ("gpt_neox.layers.2.attention.dense.weight", 2, "O"),
        ("gpt_neox.layers.2.mlp.dense_h_to_4h.weight", 2, "up"),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h.weight", 2, "down"),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h.bias", 2, "bias"),
        ("gpt_neox.final_layer_norm.weight", None, "norm"),
        ("embed_out.weight", None, "head"),
        # GPT-2
        ("transformer.wte.weight", None, "embedding"),
        ("transformer.wpe.weight", None, "embedding"),
        ("transformer.h.9.ln_1.weight", 9, "norm"),
        ("transformer.h.9.attn.c_attn.weight", 9, "QKV"),
        ("transformer.h.9.attn.c_proj.weight", 9, "O"),
        ("transformer.h.9.mlp.c_fc.weight", 9, "up"),
        ("transformer.h.9.mlp.c_proj.weight", 9, "down"),
        ("transformer.ln_f.bias", None, "norm"),
        # mixtures of experts
        ("model.layers.1.mlp.gate.weight", 1, "router"),
        ("model.layers.1.mlp.experts.63.gate_proj.weight", 1, "gate"),
        ("model.layers.1.mlp.experts.gate_up_proj", 1, "gate_up"),
        ("model.layers.1.mlp.experts.down_proj", 1, "down"),
        ("model.layers.1.mlp.shared_experts.down_proj.weight", 1, "down"),
        ("model.layers.1.mlp.shared_expert_gate.weight", 1, "router"),
        ("model.layers.1.block_sparse_moe.gate.weight", 1, "router"),
        ("model.layers.1.block_sparse_moe.experts.7.w1.weight", 1, "gate"),
        ("model.layers.1.block_sparse_moe.experts.7.w2.weight", 1, "down"),
        ("model.layers.1.block_sparse_moe.experts.7.w3.weight", 1, "up"),
        # DeepSeek's latent attention
        ("model.layers.1.self_attn.q_b_proj.weight", 1, "Q"),
        ("model.layers.1.self_attn.q_a_proj.weight", 1, "Q"),
        ("model.layers.1.self_attn.kv_a_proj_with_mqa.weight", 1, "KV"),
        ("model.layers.1.self_attn.kv_b_proj.weight", 1, "KV"),
        ("model.layers.1.self_attn.kv_a_layernorm.weight", 1, "norm"),
        # … its router's bias, and the layer that predicts a further token
        ("model.layers.3.mlp.gate.e_score_correction_bias", 3, "bias"),
        ("model.layers.3.mlp.shared_experts.gate_proj.weight", 3, "gate"),
        ("model.layers.61.embed_tokens.weight", 61, "embedding"),
        ("model.layers.61.shared_head.head.weight", 61, "head"),
        ("model.layers.61.shared_head.norm.weight", 61, "norm"),
        ("model.layers.61.eh_proj.weight", 61, "other"),
        # Gemma has four norms a layer, Phi-2 a dense output
        ("model.layers.7.pre_feedforward_layernorm.weight", 7, "norm"),
        ("model.layers.7.self_attn.dense.weight", 7, "O"),
        ("transformer.h.9.attn.c_attn.bias", 9, "bias"),
        ("something.else", None, "other"),
        ("model.layers.1.self_attn.sinks", 1, "other"),
    ],
)
def test_place(name: str, layer: int | None, matrix: str) -> None:
    found = place(name)
    assert (found.layer, found.matrix) == (layer, matrix)
    assert found.is_embedding_or_head == (matrix in ("embedding", "head"))


@pytest.mark.parametrize(
    ("name", "shape", "buffer"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (32,), True),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 2048, 2048), True),
        ("gpt_neox.layers.0.attention.masked_bias", (), True),
        ("transformer.h.0.attn.bias", (1, 1, 1024, 1024), True),
        ("transformer.h.0.attn.c_attn.bias", (2304,), False),
        ("gpt_neox.layers.0.attention.dense.bias", (512,), False),
        ("model.layers.0.self_attn.q_proj.weight", (64, 64), False),
    ],
)
def test_buffers(name: str, shape: tuple[int, ...], buffer: bool) -> None:
    assert is_buffer(name, shape) is buffer


def test_heads_and_token_embeddings() -> None:
    assert is_head("lm_head.weight")
    assert is_head("embed_out.weight")
    assert not is_head("lm_head.bias")
    assert is_token_embedding("model.embed_tokens.weight")
    assert is_token_embedding("transformer.wte.weight")
    assert not is_token_embedding("transformer.wpe.weight")


SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}
DENSE = {"Q": 2, "K": 2, "V": 2, "O": 2, "gate": 2, "up": 2, "down": 2, "head": 1}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 8}
MIXED = {"Q": 2, "K": 2, "V": 2, "O": 2, "router": 2, "gate_up": 2, "down": 2, "head": 1}
LATENT = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {}, DENSE),
        ("mistral", {}, DENSE),
        ("qwen2", {}, DENSE | {"bias": 6}),
        ("gemma2", {}, DENSE | {"head": 0}),  # tied to the embedding
        ("phi3", {}, {"QKV": 2, "O": 2, "gate_up": 2, "down": 2, "head": 1}),
        (
            "gpt2",
            {"n_layer": 2, "n_embd": 16, "n_head": 4},
            # token and position embeddings; norms have biases, too, and count as norms
            {"embedding": 2, "QKV": 2, "O": 2, "up": 2, "down": 2, "bias": 8, "head": 0},
        ),
        ("mixtral", EXPERTS, MIXED),
        ("qwen3_moe", EXPERTS | {"decoder_sparse_step": 1}, MIXED),
        (
            "deepseek_v3",
            LATENT,
            # one dense layer, one of experts beside a shared one
            {"Q": 4, "KV": 4, "O": 2, "router": 1, "gate": 2, "up": 2, "gate_up": 1, "down": 3},
        ),
    ],
)
def test_every_parameter_of_a_family_is_placed(
    family: str, settings: dict[str, Any], expected: dict[str, int]
) -> None:
    """Held against the names that transformers gives to the family's parameters."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    given = settings if family == "gpt2" else SMALL | settings
    config = transformers.AutoConfig.for_model(family, **given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = [name for name, _ in model.named_parameters()]
    counts = Counter(place(name).matrix for name in names)
    assert counts["other"] == 0
    assert {kind: counts[kind] for kind in expected} == expected
    assert {place(name).layer for name in names} == {None, 0, 1}
