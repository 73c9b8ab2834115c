"""Where answers end: at the tokenizer's end, and where the chat template ends an answer."""

from pathlib import Path
from typing import Any

import pytest
from conftest import needs_evaluation

needs_evaluation()

from lm_eval.api.instance import Instance  # noqa: E402

from subnetworks.evaluation.answers import Answers  # noqa: E402
from subnetworks.evaluation.keeping import Keeping  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
)


class Model:
    """Notes where each answer is to end."""

    until: list[Any]

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        self.until = [request.args[1]["until"] for request in requests]
        return ["2" for _ in requests]


class KeepingModel(Keeping, Model):
    """The same, with kept answers."""


@pytest.mark.parametrize(
    ("eos", "template", "until"),
    [
        ("<|endoftext|>", TEMPLATE, ["Q:", "<|im_end|>"]),  # as base models have it
        ("<|im_end|>", TEMPLATE, ["Q:"]),
        ("<|endoftext|>", TEMPLATE.replace("<|im_end|>", "###"), ["Q:"]),
        ("<|endoftext|>", None, ["Q:"]),
    ],
)
def test_an_answer_ends_where_the_template_ends_one(
    eos: str, template: str | None, until: list[str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.add_special_tokens(special)
    model = KeepingModel()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos)
    model.tokenizer.chat_template = template
    model.begin(Answers(tmp_path / "answers", "x"), 8, lambda count: None)
    asked = ("1+1?", {"until": ["Q:"], "max_gen_toks": 8})
    request = Instance("generate_until", {}, asked, 0)
    assert [reply.text for reply in model.generate_until([request])] == ["2"]
    assert model.until == [until]
    assert request.args == asked
