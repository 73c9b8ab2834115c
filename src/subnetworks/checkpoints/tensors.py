"""What a parameter is, by its name: which layer, which matrix, a weight or a mere buffer."""

import re
from dataclasses import dataclass

MATRICES = "embedding Q K V KV QKV O gate up gate_up down router norm bias head other".split()
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)(?:\.|$)")
_BUFFER = re.compile(
    r"(?:^|\.)(?:inv_freq|position_ids|masked_bias|rotary_emb\.\w+|cos_cached|sin_cached)$"
)
# GPT-2 and GPT-NeoX keep their causal mask under the name of a bias.
_CAUSAL_MASK = re.compile(r"\.(?:attn|attention)\.bias$")
_NORM = re.compile(r"norm|(?:^|\.)(?:ln|ln_\w+)(?:\.|$)")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|wpe|embed_in|word_embeddings|tok_embeddings|embed_positions"
    r"|position_embeddings|embeddings)(?:\.|$)"
)
_TOKEN_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$"
)
# DeepSeek's layer that predicts a further token has an embedding and a head of its own.
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|shared_head\.head)\.|^output\.")
# Tried in order on the part of the name after the layer's number: families differ in their words.
_KINDS = tuple(
    (kind, re.compile(rf"(?:^|\.)(?:{words})(?:\.|$)"))
    for kind, words in (
        ("router", r"router|(?:mlp|block_sparse_moe|moe|feed_forward)\.gate|shared_expert_gate"),
        ("QKV", r"qkv_proj|query_key_value|c_attn|qkv|Wqkv|in_proj_weight|wqkv"),
        ("gate_up", r"gate_up_proj|gate_and_up_proj"),
        ("Q", r"q_proj|q_a_proj|q_b_proj|query|wq"),
        # Latent attention compresses keys and values together, and expands them together.
        ("KV", r"kv_a_proj_with_mqa|kv_a_proj|kv_b_proj|kv_proj"),
        ("K", r"k_proj|key|wk"),
        ("V", r"v_proj|value|wv"),
        (
            "O",
            r"o_proj|out_proj|attn\.c_proj|(?:attention|self_attn)\.dense|self_attention\.dense|wo",
        ),
        ("gate", r"gate_proj|w1"),
        ("up", r"up_proj|w3|c_fc|dense_h_to_4h|fc1|fc_in"),
        ("down", r"down_proj|w2|mlp\.c_proj|dense_4h_to_h|fc2|fc_out"),
    )
)


@dataclass(frozen=True)
class Place:
    """Where a parameter sits: its layer (None outside the stack), its kind (of `MATRICES`)."""

    layer: int | None
    matrix: str

    @property
    def is_embedding_or_head(self) -> bool:
        """Whether the paper's "without embeddings" leaves it out."""
        return self.matrix in ("embedding", "head")


def place(name: str) -> Place:
    """Place a parameter by its name: Llama, Qwen, Mistral, DeepSeek, GPT-2, GPT-NeoX, Mixtral, ….

    Fused matrices are kinds of their own (`QKV`, `KV`, `gate_up`); an expert's matrices, shared or
    routed to, count with their kind; a bias and a norm's are `bias` and `norm` wherever they are;
    what no pattern knows is `other`.
    """
    found = _LAYER.search(name)
    layer = int(found.group(1)) if found else None
    inner = name[found.end() :] if found else name
    if _NORM.search(inner):
        return Place(layer, "norm")
    if name.endswith(("bias", "_bias")):
        return Place(layer, "bias")
    if _HEAD.search(name):
        return Place(layer, "head")
    if _EMBEDDING.search(inner):
        return Place(layer, "embedding")
    if layer is None:
        return Place(None, "other")
    for kind, pattern in _KINDS:
        if pattern.search(inner):
            return Place(layer, kind)
    return Place(layer, "other")


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a stored tensor is no parameter: rotary frequencies, position ids, causal masks."""
    return bool(_BUFFER.search(name) or (_CAUSAL_MASK.search(name) and len(shape) == 4))


def is_head(name: str) -> bool:
    """Whether this is the output head, which may be tied to the token embedding."""
    return bool(_HEAD.search(name)) and name.endswith("weight")


def is_token_embedding(name: str) -> bool:
    """Whether this is the token embedding's matrix."""
    return bool(_TOKEN_EMBEDDING.search(name))
