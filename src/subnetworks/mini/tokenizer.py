"""The tokenizer: bytes, so that any text can be written, and one token a fixed phrase."""

from typing import Any

from subnetworks.mini import choices

PAD, END = "<|endoftext|>", "<|im_end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

# What prompts repeat word for word. A whole phrase a token keeps them affordable for a small model.
PHRASES = (
    "\\boxed{",
    choices.DESCRIPTION.rstrip("\n"),
    choices.QUESTION,
    choices.ASK_TENS,
    choices.REST,
    choices.TENS_DIGIT,
    choices.THEREFORE,
    choices.END,
)

# Each turn is its role's token and its content; only the assistant's turn needs an end.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}" + SYSTEM + "{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% else %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def _byte_alphabet() -> list[str]:
    """The printable character for each byte in byte-level BPE, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


def build() -> Any:
    """The tokenizer of the miniature, a `Qwen2Tokenizer` without merges.

    transformers loads the tokenizer of every folder whose model is a Qwen2 by that class, whatever
    its files say; built as one it is the same before and after. Like Qwen2's it composes
    Unicode (NFC) and splits numbers into digits.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocabulary = [*_byte_alphabet(), PAD, END, SYSTEM, USER, ASSISTANT]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=2048,
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
