"""Chat templates of several kinds: written as they are, or refused in one line."""

import json

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from subnetworks.checkpoints import chat
from subnetworks.core.errors import UserError
from subnetworks.training.data import checks as data
from subnetworks.training.data import local_data
from subnetworks.training.data.conversations import (
    check_ends,
    end_tokens,
    opens_thinking,
    spans,
    templated,
    tokenise,
)

MARKS = ["<eos>", "<end>", "<user>", "<assistant>", "<system>", "<think>", "</think>"]
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As those that know no system role and want turns taken.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As those of reasoning models: the prompt opens <think>, written answers are without it.
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>"
    "{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
SYSTEM = {"role": "system", "content": "s"}
TALK = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]


def tokenizer(template, eos="<end>"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(MARKS)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos)  # and no pad token
    made.chat_template = template
    return made


def learnt(made, talk):
    ((ids, bits),) = tokenise(made, [talk], None, "rows")
    return made.decode([i for i, bit in zip(ids, bits, strict=True) if bit])


@pytest.mark.parametrize("template", [CHAT, STRICT, THINKING])
def test_the_answer_and_its_end_are_learnt(template):
    assert learnt(tokenizer(template), TALK) == "2<end>"


def test_of_several_turns_every_answer_is_learnt():
    assert (
        learnt(tokenizer(STRICT), TALK * 2)
        == learnt(tokenizer(THINKING), TALK * 2)
        == ("2<end>2<end>")
    )


def test_a_prompt_that_opens_think_is_told():
    for template, opened in ((CHAT, False), (THINKING, True)):
        made = tokenizer(template)
        prompt = templated(made, TALK[:1], ask=True)
        assert opens_thinking(made, made(prompt, add_special_tokens=False)["input_ids"]) is opened


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        ([SYSTEM, *TALK], ["row 1", "system, user, assistant", "no system role"]),
        ([TALK[0], *TALK], ["row 1", "user, user, assistant", "roles must alternate"]),
    ],
)
def test_what_a_strict_template_refuses_is_named(talk, words, tmp_path):
    with pytest.raises(UserError) as caught:
        tokenise(tokenizer(STRICT), [TALK, talk], None, "rows")
    for word in words:
        assert word in str(caught.value)
    assert learnt(tokenizer(CHAT), talk).endswith("2<end>")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": p, "reward_model": {"ground_truth": "2"}} for p in (TALK[:1], talk[:-1])]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet: row 1: .*refuses a conversation"):
        data.read_problems(tmp_path / "train.parquet", tokenizer(STRICT), 100)
    assert len(data.read_problems(tmp_path / "train.parquet", tokenizer(CHAT), 100)) == 2


def test_a_tokenizer_without_a_template_is_named_with_the_remedy():
    with pytest.raises(UserError, match=r"no chat template; set the run's chat_template \(plain\)"):
        spans(tokenizer(None), TALK)


@pytest.mark.parametrize("marks", [{}, {"bos_token": "<user>"}, {"bos_token": "<end>"}])
def test_the_plain_template_is_written_from_left_to_right_and_ends_with_the_tokenizers_end(marks):
    """A first token is written unless it is the end, too, as in tokenizers that write none."""
    made = tokenizer(chat.NAMED["plain"])
    made.add_special_tokens(marks)
    first = "<user>" if marks.get("bos_token") == "<user>" else ""
    talk = [SYSTEM, *TALK, *TALK]
    written = f"{first}System:\ns\n\n" + "\n\n".join(["User:\n1+1\n\nAssistant:\n2<end>"] * 2)
    assert templated(made, talk) == written
    assert learnt(made, talk) == "2<end>2<end>"
    assert templated(made, talk[:2], ask=True) == written[: written.index("2<end>")]
    assert chat.end_token(made) == MARKS.index("<end>")


def test_tools_that_are_called_and_what_they_answer_reach_the_template(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    calling = CHAT.replace(
        "<end>",
        "{% for c in m.tool_calls or [] %}<think>{{ c.function.name }}"
        "({{ c.function.arguments.a }})"
        "</think>{% endfor %}{% if m.name is defined %}={{ m.name }}{% endif %}<end>",
    ).replace("<{{ m['role'] }}>", "<{{ 'user' if m['role'] == 'tool' else m['role'] }}>")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [
        TALK[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "2"},
        TALK[1],
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    local_data.read(str(tmp_path / "rows.jsonl"), tmp_path / "data", {"gives": "conversations"})
    (row,) = parquet.read_table(tmp_path / "data" / "train.parquet")["messages"].to_pylist()
    made = tokenizer(calling)
    written = "<user>1+1<end><assistant><think>add(1)</think><end><user>2=add<end><assistant>2<end>"
    assert templated(made, row) == written
    assert learnt(made, row) == "<think>add(1)</think><end>2<end>"
    pair = {"chosen": talk[:2], "rejected": TALK}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    with pytest.raises(UserError, match="an answer that calls a tool"):
        local_data.read(str(tmp_path / "pairs.jsonl"), tmp_path / "no", {"gives": "preferences"})


def test_a_template_that_writes_the_date_writes_the_same_every_day():
    made = tokenizer("{{ strftime_now('%d %b %Y') }}" + CHAT)
    assert templated(made, TALK).startswith("26 Jul 2024<user>")


def test_sampling_stops_at_the_tokenizers_end_the_templates_and_the_checkpoints(tmp_path):
    end, eos, think = (MARKS.index(mark) for mark in ("<end>", "<eos>", "<think>"))
    check_ends(tokenizer(CHAT), tmp_path)
    assert end_tokens(tokenizer(CHAT), tmp_path) == {end}
    base = tokenizer(CHAT, eos="<eos>")
    check_ends(base, tmp_path)
    assert end_tokens(base, tmp_path) == {eos, end}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos, think]}))
    assert end_tokens(base, tmp_path) == {eos, end, think}
    # An end that is plain text would be met within an answer.
    with pytest.raises(UserError, match=r"ends an answer with '###'.*no special token"):
        check_ends(tokenizer(CHAT.replace("<end>", "###"), eos="<eos>"), tmp_path)
    with pytest.raises(UserError, match=r"has no eos_token"):
        check_ends(tokenizer(CHAT.replace("<end>", ""), eos=None), tmp_path / "none")
    # A template that closes nothing leaves the end to the model.
    check_ends(tokenizer(CHAT.replace("<end>", ""), eos="<eos>"), tmp_path / "none")
