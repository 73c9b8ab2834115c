import pytest

from subnetworks.core.errors import UserError
from subnetworks.training.data.conversations import cut, epochs, spans, tokenise


class Letters:
    """A tokenizer of single characters with a chat template."""

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **_):
        assert not tokenize
        text = "".join(f"<{m['role'][0]}>{m['content']}." for m in messages)
        return text + ("<a>" if add_generation_prompt else "")

    def __call__(self, texts, **_):
        return {
            "input_ids": [[ord(letter) for letter in text] for text in texts],
            "offset_mapping": [[(i, i + 1) for i in range(len(text))] for text in texts],
        }


class Forgetful(Letters):
    """Leaves out what an earlier answer said, as templates of reasoning models do."""

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **_):
        kept = [m for m in messages[:-1] if m["role"] == "user"] + list(messages[-1:])
        return super().apply_chat_template(kept, tokenize, add_generation_prompt)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_the_assistants_words_and_their_end_are_learnt_and_nothing_else():
    talk = [user("hi"), assistant("yo"), user("so"), assistant("go on")]
    ((ids, learnt),) = tokenise(Letters(), [talk], 100, "x")
    said = "".join(chr(i) for i, bit in zip(ids, learnt, strict=True) if bit)
    assert said == "yo.go on."
    text, parts = spans(Letters(), talk)
    assert [text[begin:end] for begin, end in parts] == ["yo.", "go on."]


def test_a_template_that_rewrites_the_past_is_refused():
    talk = [user("hi"), assistant("yo"), user("so"), assistant("go")]
    with pytest.raises(UserError, match="chat template"):
        spans(Forgetful(), talk)


def test_too_long_a_row_is_named():
    rows = [[user("a"), assistant("b")], [user("a" * 50), assistant("b")]]
    with pytest.raises(UserError, match=r"data\.parquet: row 1 has .* max_length \(20\)"):
        tokenise(Letters(), rows, 20, "data.parquet")


def test_a_row_that_is_cut_keeps_its_beginning_and_one_without_an_answer_is_left_out(capsys):
    rows = [[user("a"), assistant("b" * 50)], [user("a" * 50), assistant("b")]]
    talks = [(talk,) for talk in tokenise(Letters(), rows, None, "data.parquet")]
    assert cut(talks, 20, "data.parquet") == [0]
    ((ids, learnt),) = talks[0]
    assert "".join(map(chr, ids)) == "<u>a.<a>" + "b" * 12
    assert learnt == [0] * 8 + [1] * 12
    assert "1 of 2 rows are left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"max_length \(5\) leaves no row an answer"):
        cut(talks, 5, "data.parquet")


def test_a_row_without_an_answer_is_named():
    with pytest.raises(UserError, match="row 0 has no assistant message"):
        tokenise(Letters(), [[user("a")]], 20, "x")


def test_order_follows_the_seed_and_every_row_is_seen_equally_often():
    steps = epochs(rows=10, batch=4, steps=5, seed=3)
    assert steps == epochs(rows=10, batch=4, steps=5, seed=3)
    assert steps != epochs(rows=10, batch=4, steps=5, seed=4)
    seen = [row for step in steps for row in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_longer_run_begins_like_a_shorter_one():
    assert epochs(10, 4, 3, seed=1) == epochs(10, 4, 6, seed=1)[:3]
