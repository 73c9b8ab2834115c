import sys

import pytest

pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet

from subnetworks.core.errors import UserError
from subnetworks.training.data import checks as data
from subnetworks.training.settings import parse_accelerator, parse_settings

PAIR = {"prompt": [{"role": "user", "content": "1+1="}], "chosen": "2", "rejected": "3"}
PROBLEM = {
    "data_source": "mini",
    "prompt": [{"role": "user", "content": "1+1="}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
}
ANSWER = {"prompt": PAIR["prompt"], "answer": "2", "label": True}
TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def settings(algorithm, **more):
    values = {"steps": 1, "learning_rate": 1e-6, "batch_size": 2, **more}
    return parse_settings({"algorithm": algorithm, **values})


def write(folder, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    return folder


@pytest.mark.parametrize(("algorithm", "row"), [("sft", TALK), ("grpo", PROBLEM), ("dpo", PAIR)])
def test_good_rows_pass(tmp_path, algorithm, row):
    data.check(write(tmp_path, [row] * 2), settings(algorithm))


@pytest.mark.parametrize("algorithm", ["orpo", "simpo", "kto"])
def test_all_preference_algorithms_take_pairs(tmp_path, algorithm):
    data.check(write(tmp_path, [PAIR] * 2), settings(algorithm))


def test_kto_takes_single_answers_too(tmp_path):
    data.check(write(tmp_path, [ANSWER, {**ANSWER, "label": False}]), settings("kto"))


def test_for_kto_a_pair_is_two_answers(tmp_path):
    data.check(write(tmp_path, [PAIR]), settings("kto"))
    with pytest.raises(UserError, match="1 rows are fewer"):
        data.check(tmp_path, settings("kto", batch_size=3))


def test_an_answer_that_ends_at_once_is_an_answer(tmp_path):
    data.check(write(tmp_path, [PAIR, {**PAIR, "rejected": ""}]), settings("dpo"))


@pytest.mark.parametrize(
    ("algorithm", "rows", "words"),
    [
        ("dpo", [TALK] * 2, ["prompt, chosen, rejected", "no 'prompt'"]),
        ("dpo", [{**PAIR, "chosen": TALK["messages"]}] * 2, ["row 0's chosen", "fetch-data"]),
        ("dpo", [{**PAIR, "prompt": "1+1="}] * 2, ["row 0's prompt", "fetch-data"]),
        ("sft", [PAIR] * 2, ["messages"]),
        ("sft", [TALK], ["1 rows", "batch_size (2)"]),
        ("dpo", [PAIR, {**PAIR, "rejected": None}], ["row 1", "no rejected answer"]),
        ("dpo", [{**PAIR, "chosen": None}, PAIR], ["row 0", "no chosen answer"]),
        ("dpo", [PAIR, {**PAIR, "rejected": "2"}], ["row 1", "itself"]),
        ("dpo", [PAIR, {**PAIR, "prompt": []}], ["row 1", "no prompt"]),
        ("kto", [TALK] * 2, ["prompt, chosen, rejected"]),
        ("kto", [ANSWER, ANSWER], ["2 answers", "undesirable", "both kinds"]),
        ("kto", [{**ANSWER, "label": False}] * 2, ["2 answers is desirable", "both kinds"]),
        ("kto", [ANSWER, {**ANSWER, "label": None}], ["row 1", "None", "true"]),
        ("kto", [ANSWER, {**ANSWER, "answer": None}], ["row 1", "no answer"]),
        ("kto", [], ["prompt, chosen, rejected"]),
        ("dpo", [], ["prompt, chosen, rejected"]),
        ("orpo", [PAIR], ["1 rows", "batch_size (2)"]),
        (
            "grpo",
            [PROBLEM, {**PROBLEM, "reward_model": {"style": "rule", "ground_truth": ""}}],
            ["row 1", "ground_truth"],
        ),
    ],
)
def test_bad_rows_are_named_before_training(tmp_path, algorithm, rows, words):
    with pytest.raises(UserError) as caught:
        data.check(write(tmp_path, rows), settings(algorithm))
    for word in ["train.parquet", *words]:
        assert word in str(caught.value)


def test_no_data_and_damaged_data_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        data.check(tmp_path, settings("sft"))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a Parquet file"):
        data.check(tmp_path, settings("sft"))


class Words:
    """One token a word."""

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **_):
        return messages[0]["content"]

    def __call__(self, texts, **_):
        return {"input_ids": [text.split() for text in texts]}


def test_a_file_in_the_place_of_a_data_set_is_named_with_the_remedy(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(
        UserError, match=r"pairs\.jsonl: a file, .* fetch-data \S*pairs\.jsonl --out"
    ):
        data.check(tmp_path / "pairs.jsonl", settings("dpo"))


def test_a_prompt_that_does_not_fit_is_named(tmp_path):
    long = {**PROBLEM, "prompt": [{"role": "user", "content": "one two three"}]}
    write(tmp_path, [PROBLEM, long])
    file = tmp_path / "train.parquet"
    assert [len(ids) for ids, _ in data.read_problems(file, Words(), 3)][1] == 3
    with pytest.raises(UserError, match=r"row 1 has 3 tokens, more than max_prompt_length \(2\)"):
        data.read_problems(file, Words(), 2)


def test_a_reward_that_cannot_work_is_named_before_training(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def none(answer, truth):\n    pass\n\ndef many(answer, truth):\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = write(tmp_path, [PROBLEM] * 2)
    data.check_reward(folder, settings("grpo", reward="own_rewards:many"))
    with pytest.raises(UserError, match="gave None"):
        data.check_reward(folder, settings("grpo", reward="own_rewards:none"))
    with pytest.raises(UserError, match="cannot be imported"):
        data.check_reward(folder, settings("grpo", reward="own_rewards:absent"))
    with pytest.raises(UserError, match=r"gives 3; prime needs scores in \[0, 1\]"):
        data.check_reward(folder, settings("prime", reward="own_rewards:many"))


@pytest.mark.parametrize(("algorithm", "row"), [("sft", TALK), ("simpo", PAIR), ("kto", PAIR)])
def test_more_than_the_context_is_refused_before_training(tmp_path, algorithm, row):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    numpy = pytest.importorskip("numpy")
    run = pytest.importorskip("subnetworks.training.runtime.run")
    (tmp_path / "init").mkdir()
    save_file({"w": numpy.zeros(2, numpy.float32)}, tmp_path / "init" / "model.safetensors")
    (tmp_path / "init" / "config.json").write_text('{"max_position_embeddings": 64}')
    write(tmp_path, [row] * 2)

    def check(length, **more):
        told = settings(algorithm, max_length=length, **more)
        run.check(told, parse_accelerator({}), tmp_path / "init", tmp_path, None)

    with pytest.raises(UserError, match="absent: no such folder"):
        run.check(settings(algorithm), parse_accelerator({}), tmp_path / "absent", tmp_path, None)
    with pytest.raises(UserError, match=r"init: its tokenizer has no chat template; set the run's"):
        check(64)
    check(64, chat_template="plain")
    (tmp_path / "init" / "chat_template.jinja").touch()
    check(64)
    with pytest.raises(UserError, match=r"validation\.parquet: no such file, which validate_every"):
        check(64, validate_every=1)
    with pytest.raises(UserError, match=r"max_length \(65\) exceeds the context .* \(64 tokens\)"):
        check(65)


def test_training_without_its_packages_is_refused_before_it_starts(tmp_path, monkeypatch):
    run = pytest.importorskip("subnetworks.training.runtime.run")
    monkeypatch.setattr(run, "check", lambda *_: {})
    monkeypatch.setitem(sys.modules, "verl", None)
    (tmp_path / "init").mkdir()
    (tmp_path / "data").mkdir()
    folders = {name: tmp_path / name for name in ("init", "data", "output", "run_folder")}
    told = {"algorithm": "dpo", "steps": 1, "learning_rate": 1e-6}
    with pytest.raises(ModuleNotFoundError) as caught:
        run.train(told, **folders)
    assert caught.value.name == "verl"
    assert not (tmp_path / "run_folder" / "state").exists()
