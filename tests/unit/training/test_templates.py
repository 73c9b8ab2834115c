"""Chat templates of several kinds: written as they are, or refused in one line."""

import json

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from subnetworks.checkpoints import chat
from subnetworks.core.errors import UserError
from subnetworks.training.data import checks as data
from subnetworks.training.data import examples, local_data, mixture
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


TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"properties": {argument: {"type": "integer"}}}},
    }
    for name, argument in (("add", "a"), ("halve", "b"))
]
OFFERING = (
    "{% for t in tools or [] %}<system>{{ t.function.name }}("
    "{{ t.function.parameters.properties | join(',') }}){% endfor %}" + CHAT
)
OFFERED = "<system>add(a)<system>halve(b)"
ROWS = {
    "conversations": {"messages": TALK},
    "preferences": {"prompt": TALK[:1], "chosen": "2", "rejected": "3"},
    "problems": {"prompt": TALK[:1], "truth": "2"},
}


def fetched(tmp_path, gives, rows, form="jsonl", **settings):
    """The folder of a data set made of rows with tools."""
    pytest.importorskip("pyarrow")
    from pyarrow import Table, parquet

    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / f"rows.{form}"
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(Table.from_pylist(rows), file)
    folder = tmp_path / f"{gives}_{form}"
    local_data.read(str(file), folder, {"gives": gives, **settings})
    return folder


def decoded(made, folder, gives):
    """Each text of a data set as its run would read it."""
    file = folder / "train.parquet"
    if gives == "problems":
        return [made.decode(ids) for ids, _ in data.read_problems(file, made, 200)]
    if gives == "preferences":
        pairs = examples.read_pairs(file, made, 200)
        return [made.decode(ids) for pair in pairs for ids, _ in pair]
    sft_main = pytest.importorskip("subnetworks.training.runtime.sft_main")
    made.name_or_path = str(folder)
    rows = sft_main.ConversationDataset(str(file), made, Config(truncation="error", max_length=200))
    return [made.decode(row["input_ids"]) for row in rows]


class Config(dict):
    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("gives", ROWS)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_rows_tools_reach_the_template(tmp_path, gives, form):
    """From Parquet, too, whose rows have empty fields where other tools have arguments; beside rows
    without tools, the first among them."""
    rows = [ROWS[gives] | {"tools": tools} for tools in ([], TOOLS, None)]
    folder = fetched(tmp_path, gives, rows, form)
    texts = decoded(tokenizer(OFFERING), folder, gives)
    each = len(texts) // 3
    plain = decoded(tokenizer(CHAT), fetched(tmp_path, gives, [ROWS[gives]]), gives)
    assert texts == [*plain, *(OFFERED + text for text in plain), *plain]
    assert each == (2 if gives == "preferences" else 1)


@pytest.mark.parametrize("gives", ROWS)
@pytest.mark.parametrize("template", [CHAT, chat.NAMED["plain"]])
def test_a_template_that_leaves_tools_out_is_refused(tmp_path, gives, template):
    rows = [ROWS[gives], ROWS[gives] | {"tools": json.dumps(TOOLS)}]
    folder = fetched(tmp_path, gives, rows)
    with pytest.raises(
        UserError, match=r"row 1: the tokenizer's chat template leaves out the tool"
    ):
        decoded(tokenizer(template), folder, gives)


def test_a_template_for_tools_beside_the_usual_one_is_taken():
    made = tokenizer({"default": CHAT, "tool_use": OFFERING})
    assert templated(made, TALK, json.dumps(TOOLS)) == OFFERED + templated(made, TALK)


@pytest.mark.parametrize("tools", ["add", '{"name": "add"}', '["add"]', [{"name": "add"}]])
def test_what_is_no_list_of_schemas_is_named(tools):
    with pytest.raises(
        UserError, match=r"its tools .*add.* are no list of schemas as JSON; rewrite"
    ):
        templated(tokenizer(OFFERING), TALK, tools)


def test_tools_survive_mixing_and_pairing(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    plain = fetched(tmp_path / "plain", "conversations", [ROWS["conversations"]] * 3)
    offering = [ROWS["conversations"] | {"functions": TOOLS}] * 3
    named = {"columns": {"tools": "functions"}}
    with_tools = fetched(tmp_path / "with", "conversations", offering, **named)
    mixture.mix(
        {"a": plain, "b": with_tools}, tmp_path / "mixed", {"weights": {"a": 1, "b": 1}, "seed": 1}
    )
    rows = parquet.read_table(tmp_path / "mixed/train.parquet").to_pylist()
    assert sorted(row["tools"] or "" for row in rows) == [""] * 3 + [json.dumps(TOOLS)] * 3
    # To one prompt with other tools, an answer is another's.
    judged = [
        {"prompt": "1+1", "said": said, "right": right, "tools": tools}
        for said, right, tools in (("2", 1, TOOLS), ("3", 0, None), ("4", 0, TOOLS))
    ]
    pairing = {"judged": {"answer": "said", "label": "right"}}
    folder = fetched(tmp_path, "preferences", judged, **pairing)
    (pair,) = parquet.read_table(folder / "train.parquet").to_pylist()
    assert (pair["chosen"], pair["rejected"], pair["tools"]) == ("2", "4", json.dumps(TOOLS))


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
