"""Preference data as tokens: whose answer is marked, what is cut, how KTO pairs up strangers."""

import pytest

pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet
from test_conversations import Letters, assistant, user

from subnetworks.core.errors import UserError
from subnetworks.training.data.examples import mismatched, read_labelled, read_pairs

PROMPT = [user("hi"), assistant("yo"), user("so")]
PAIRS = [
    {"prompt": PROMPT, "chosen": "good", "rejected": "bad"},
    {"prompt": [user("q" * 20)], "chosen": "fine", "rejected": "no"},
]


def write(folder, rows):
    path = folder / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def said(conversation):
    """The marked text of a conversation."""
    return "".join(chr(i) for i, bit in zip(*conversation, strict=True) if bit)


def text(conversation):
    return "".join(map(chr, conversation[0]))


def test_only_the_last_answer_of_each_side_is_marked(tmp_path):
    pairs = read_pairs(write(tmp_path, PAIRS), Letters(), 100)
    assert [tuple(map(said, pair)) for pair in pairs] == [("good.", "bad."), ("fine.", "no.")]
    assert text(pairs[0][0]) == "<u>hi.<a>yo.<u>so.<a>good."


def test_a_pair_too_long_is_refused_or_cut_or_left_out(tmp_path):
    path = write(tmp_path, PAIRS)
    with pytest.raises(UserError, match="row 1 has 32 tokens"):
        read_pairs(path, Letters(), 27)
    assert len(read_pairs(path, Letters(), 30, "truncate")) == 2
    # Of the first pair only the earlier answer is left, which is not what is compared.
    (pair,) = read_pairs(
        write(tmp_path, [PAIRS[0], {**PAIRS[1], "prompt": [user("q")]}]), Letters(), 14, "truncate"
    )
    assert said(pair[0]) == "fine."


def test_pairs_are_split_into_either_kind_for_kto(tmp_path):
    singles, desirable = read_labelled(write(tmp_path, PAIRS), Letters(), 100)
    assert [said(conversation) for (conversation,) in singles] == ["good.", "bad.", "fine.", "no."]
    assert desirable == [True, False, True, False]


def test_labels_stay_with_their_answers(tmp_path):
    rows = [
        {"prompt": [user("q" * 20)], "answer": "lost", "label": True},
        {"prompt": [user("q")], "answer": "kept", "label": False},
    ]
    path = write(tmp_path, rows)
    singles, desirable = read_labelled(path, Letters(), 14, "truncate")
    assert [said(conversation) for (conversation,) in singles] == ["kept."]
    assert desirable == [False]


def test_strangers_answers_take_the_place_of_ones_own(tmp_path):
    singles, _ = read_labelled(write(tmp_path, PAIRS), Letters(), 100)
    batch = [conversation for (conversation,) in singles]
    others = mismatched(batch, 30)
    assert [text(other) for other in others] == [
        "<u>hi.<a>yo.<u>so.<a>no.",
        "<u>hi.<a>yo.<u>so.<a>good.",
        "<u>" + "q" * 20 + ".<a>bad",
        "<u>" + "q" * 20 + ".<a>fin",
    ]
    assert [said(other) for other in others] == ["no.", "good.", "bad", "fin"]
