"""Chat templates: whether a checkpoint has one, where it ends an answer, and templates by name."""

import json
from pathlib import Path
from typing import Any, Literal

Named = Literal["plain"]

# A base model's tokenizer may have no other mark than its end; one that begins with a token of its
# own (which is then not its end) is to see it first.
NAMED: dict[str, str] = {
    "plain": (
        "{% if bos_token is defined and bos_token and bos_token != eos_token %}"
        "{{ bos_token }}{% endif %}"
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ message['role'] | capitalize }}:{{ '\\n' }}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif %}"
    )
}
"""What a run may name where a checkpoint has no template, or another is wanted."""

FILE = "chat_template.jinja"
_ASKED = {"role": "user", "content": "1"}
_SAID = "2+2"


def has_template(folder: Path) -> bool:
    """Whether a checkpoint's folder has a chat template."""
    if any((folder / name).is_file() for name in (FILE, "chat_template.json")):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def end_mark(tokenizer: Any) -> str:
    """What the chat template writes behind an answer, without white space; nothing if it closes
    none, or refuses the plainest conversation."""
    from jinja2 import TemplateError

    said = [_ASKED, {"role": "assistant", "content": _SAID}]
    try:
        text: str = tokenizer.apply_chat_template(said, tokenize=False)
    except TemplateError:
        return ""
    return text.rpartition(_SAID)[2].strip()


def end_token(tokenizer: Any) -> int | None:
    """The token with which the chat template ends an answer; None if that is not a special one."""
    ids = tokenizer(end_mark(tokenizer), add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return ids[0] if ids and ids[0] in special else None
