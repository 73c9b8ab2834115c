"""Tiny random models of three common layouts, each with a tokenizer and a chat template in the
style of the real ones; and data for them from a file, a mixture and a stand-in for the Hub."""

import json
import subprocess
import sys

from subnetworks.training.data import local_data, mixture

# Headers; a date in the system message; the end of a turn beside the end of a text.
LLAMA = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>{{ '\\n\\n' }}"
    "Today Date: {{ strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ '\\n\\n' }}"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}"
    "{% endif %}"
)
# ChatML with a system prompt of its own; the tokenizer knows only the end of a text.
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system{{ '\\n' }}"
    "You are a helpful assistant.<|im_end|>{{ '\\n' }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ '\\n' }}{{ m['content'] }}<|im_end|>"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
# No system messages, turns that alternate, no padding token.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
LAYOUTS = {
    "llama": (
        ("Llama", LLAMA),
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|finetune_right_pad_id|>"},
        ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    ),
    "qwen": (
        ("Qwen2", QWEN),
        {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
        ["<|im_end|>", "<|im_start|>"],
    ),
    "mistral": (("Mistral", MISTRAL), {"bos": "<s>", "eos": "</s>"}, ["[INST]", "[/INST]"]),
}


def make_model(folder, layout, template=True):
    """A model of some ten thousand weights; returns its tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    (family, chat), marks, more = LAYOUTS[layout]
    special = [*dict.fromkeys(marks.values()), *more]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        additional_special_tokens=more,
        **{f"{name}_token": mark for name, mark in marks.items()},
    )
    if template:
        tokenizer.chat_template = chat
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=1,  # vLLM wants heads of 32
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=layout == "qwen",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        dtype="bfloat16",
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16)
    if layout == "llama":
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(
            ["<|end_of_text|>", "<|eot_id|>"]
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def rows(gives, begin=0):
    """Twelve rows of a kind in TRL's columns; conversations of two turns."""
    found = []
    for n in range(begin, begin + 12):
        asked = {"role": "user", "content": f"{n}+1?"}
        said = {"role": "assistant", "content": f"{n + 1}"}
        if gives == "problems":
            found.append({"prompt": [asked], "truth": n + 1})
        elif gives == "preferences":
            wrong = {"role": "assistant", "content": "no"}
            found.append({"chosen": [asked, said], "rejected": [asked, wrong]})
        else:
            found.append({"messages": [asked, said, {**asked, "content": "Sure?"}, said]})
    return found


def lines(found):
    return "".join(json.dumps(row) + "\n" for row in found)


def from_file(folder, gives, begin=0, name="data"):
    """A data set from JSON lines, two of its rows held out."""
    file = folder / f"{name}.jsonl"
    file.write_text(lines(rows(gives, begin)))
    local_data.read(str(file), folder / name, {"gives": gives, "validation": 2})
    return folder / name


def from_mixture(folder, gives):
    """A mixture of two such."""
    parts = {name: from_file(folder, gives, n, name) for name, n in (("a", 0), ("b", 20))}
    mixture.mix(parts, folder / "data", {"weights": {"a": 1, "b": 1}})
    return folder / "data"


def from_hub(folder, gives):
    """A data set from the loopback interface, by the command line and the Hub's own client."""
    from loopback_hub import Hub

    settings = {"gives": gives, "validation": 2, "files": "*.jsonl"}
    with Hub() as hub:
        hub.commit("owner/rows", {"train.jsonl": lines(rows(gives)).encode()})
        command = [sys.executable, "-m", "subnetworks", "fetch-data", "hub:owner/rows"]
        command += ["--output", str(folder / "data"), "--cache", str(folder / "cache")]
        command += ["--settings", json.dumps(settings)]
        done = subprocess.run(
            command, env=hub.environment(folder), capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stderr
    return folder / "data"


SOURCES = [from_file, from_mixture, from_hub]
