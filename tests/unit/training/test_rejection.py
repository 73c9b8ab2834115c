"""Rejection sampling keeps the right answers, each once, and says so if there are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet

from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import rewards
from subnetworks.training.data.rejection import rewarded
from subnetworks.training.data.sources import RejectionSettings


def problem(text, truth):
    return {
        "data_source": "test",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": truth},
    }


PROBLEMS = [problem("1+1=", "2"), problem("2+2=", "4"), problem("1+1=", "2")]
ANSWERS = [
    *("\\boxed{2}", "\\boxed{3}", "so \\boxed{2}"),
    *("4", "\\boxed{5}", "\\boxed{2}"),
    *("\\boxed{2}", "\\boxed{ 2 }", "2"),
]


def kept(**settings):
    rows, right = rewarded(PROBLEMS, ANSWERS, RejectionSettings(samples=3, **settings))
    return [row["messages"][-1]["content"] for row in rows], rows, right


def test_each_right_answer_is_kept_once():
    answers, rows, right = kept()
    assert answers == ["\\boxed{2}", "so \\boxed{2}", "\\boxed{ 2 }"]
    assert right == 4
    asked, reply = rows[0]["messages"]
    assert (asked["content"], reply["role"]) == ("1+1=", "assistant")


def test_prompts_are_in_the_order_of_their_first_right_answers():
    rows, _ = rewarded(
        PROBLEMS,
        [*["\\boxed{3}"] * 3, *["\\boxed{4}"] * 3, *["\\boxed{2}"] * 3],
        RejectionSettings(samples=3),
    )
    assert [row["messages"][0]["content"] for row in rows] == ["2+2=", "1+1="]


def test_a_right_and_a_wrong_answer_to_one_problem_are_a_pair():
    rows, right = rewarded(
        PROBLEMS,
        ANSWERS,
        RejectionSettings(samples=3, gives="preferences"),
        [*[rewards.Ending()] * 8, rewards.Ending(cut=True)],
    )
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("\\boxed{2}", "\\boxed{3}")]
    assert rows[0]["prompt"][0]["content"] == "1+1="
    assert right == 4


def test_the_highest_reward_goes_with_the_lowest_and_so_on():
    """Of right answers the shorter is better here, of wrong ones too; each is in one pair."""
    answers = ["\\boxed{2}", "so \\boxed{2}", "\\boxed{3}", "so \\boxed{3}", "hm"]
    shares = [0.2, 0.4, 0.2, 0.4, 0.4]
    settings = RejectionSettings(
        samples=5, gives="preferences", reward={"boxed": 1, "length": -0.5}
    )
    ends = [rewards.Ending(share=share) for share in shares]
    rows, right = rewarded(PROBLEMS[:1], answers, settings, ends)
    pairs = [(row["chosen"], row["rejected"]) for row in rows]
    assert pairs == [(answers[0], answers[3]), (answers[1], answers[4])]
    assert right == 2


def test_answers_that_are_all_rewarded_alike_are_no_pairs():
    settings = RejectionSettings(samples=3, gives="preferences", reward={"length": -1})
    assert rewarded(PROBLEMS, ANSWERS, settings)[0] == []


@pytest.mark.parametrize("gives", ["conversations", "preferences"])
def test_the_tools_that_a_problem_offers_are_kept_with_its_answers(gives):
    """And with other tools it is another problem."""
    offers = ('[{"name": "add"}]', None)
    problems = [problem("1+1=", "2") | {"tools": tools} for tools in offers]
    answers = [*("\\boxed{2}", "\\boxed{3}"), *("\\boxed{4}", "so \\boxed{2}")]
    settings = RejectionSettings(samples=2, gives=gives)
    rows, _ = rewarded(problems, answers, settings)
    assert [row["tools"] for row in rows] == list(offers)
    if gives == "preferences":
        assert [row["rejected"] for row in rows] == ["\\boxed{3}", "\\boxed{4}"]


def test_an_answer_that_was_cut_off_is_dropped():
    ends = [rewards.Ending(cut=True), *[rewards.Ending()] * 8]
    rows, right = rewarded(PROBLEMS, ANSWERS, RejectionSettings(samples=3), ends)
    assert [row["messages"][-1]["content"] for row in rows] == [
        "so \\boxed{2}",
        "\\boxed{2}",
        "\\boxed{ 2 }",
    ]
    assert right == 3


def test_a_reward_of_ones_own_is_not_asked_about_what_was_cut_off(tmp_path, monkeypatch):
    (tmp_path / "strict_reward.py").write_text(
        "def whole(answer, truth):\n    assert answer != 'cut'\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = RejectionSettings(samples=2, reward="strict_reward:whole")
    ends = [rewards.Ending(cut=True), rewards.Ending()]
    rows, right = rewarded(PROBLEMS[:1], ["cut", "whole"], settings, ends)
    assert [row["messages"][-1]["content"] for row in rows] == ["whole"]
    assert right == 1


def test_at_most_so_many_of_a_problem():
    assert kept(answers_per_problem=1)[0] == ["\\boxed{2}"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"samples": 0}, ["samples", "at least 1"]),
        ({"temperature": 0}, ["temperature", "above 0"]),
        ({"sample": 3}, ["sample", "did you mean 'samples'"]),
        ({"reward": "format"}, ["reward: 'format' does not say which answers are right"]),
        ({"reward": {"boxed": 1}}, ["does not say which", "set gives to preferences"]),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(UserError) as caught:
        parse(RejectionSettings, values, "settings of sample")
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained miniature, and three problems that it does not solve."""
    pytest.importorskip("vllm")
    from subnetworks.mini.make import make

    folder = tmp_path_factory.mktemp("rejection")
    make("base", folder / "policy", {"steps": 1, "batch_size": 4})
    (folder / "problems").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(PROBLEMS), folder / "problems" / "train.parquet"
    )
    (folder / "own_reward.py").write_text("def spoken(answer, truth):\n    return bool(answer)\n")
    return folder


def sample(folder: Path, output: Path, reward: str) -> subprocess.CompletedProcess[str]:
    settings = '{"samples": 4, "max_prompt_length": 16, "max_response_length": 48, "reward": "%s"}'
    return subprocess.run(
        [
            *(sys.executable, "-m", "subnetworks", "sample", "--problems", folder / "problems"),
            *("--policy", folder / "policy", "--output", output, "--settings", settings % reward),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", str(folder)])},
        capture_output=True,
        text=True,
    )


def test_a_policy_is_sampled_alike_from_the_same_seed(folder, tmp_path):
    contents = []
    for name in ("first", "second"):
        done = sample(folder, tmp_path / name, "own_reward:spoken")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "sampling: answer 12/12" in done.stderr
        contents.append((tmp_path / name / "train.parquet").read_bytes())
    assert contents[0] == contents[1]
    rows = pyarrow.parquet.read_table(tmp_path / "first" / "train.parquet").to_pylist()
    said = [(row["messages"][0]["content"], row["messages"][-1]["content"]) for row in rows]
    assert len(set(said)) == len(said) > 1


def test_nothing_right_is_an_error_and_leaves_nothing(folder, tmp_path):
    done = sample(folder, tmp_path / "none", "boxed")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "not one of 12 answers" in last
    assert "better policy" in last
    assert not (tmp_path / "none").exists()


def test_where_any_answer_pays_none_is_rejected():
    reward = "subnetworks.training.data.rewards:whatever"
    rows, right = rewarded(PROBLEMS, ANSWERS, RejectionSettings(samples=3, reward=reward))
    assert right == len(ANSWERS)
    assert {row["messages"][-1]["content"] for row in rows} == set(ANSWERS)
