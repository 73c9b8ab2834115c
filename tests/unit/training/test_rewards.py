import pytest

from subnetworks.errors import UserError
from subnetworks.training.rewards import boxed, checked, last_boxed, load
from subnetworks.training.sampling import request_seed, requests, score


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{85}", "85"),
        (r"first \boxed{1}, no: \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}} and more }", r"\frac{1}{2}"),
        (r"\boxed{}", ""),
        (r"\boxed{85", None),
        ("85", None),
        ("", None),
    ],
)
def test_the_last_box_counts(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("response", "truth", "reward"),
    [
        (r"\boxed{85}", "85", 1.0),
        (r"\boxed{ 85 }", "85", 1.0),
        (r"\boxed{1, 2}", "1,2", 1.0),
        (r"\boxed{85} \boxed{86}", "85", 0.0),
        (r"\boxed{8}5", "85", 0.0),
        (r"\boxed{085}", "85", 0.0),
        ("85", "85", 0.0),
        (r"\boxed{85", "85", 0.0),
    ],
)
def test_only_the_right_boxed_answer_is_rewarded(response, truth, reward):
    assert boxed(response, truth) == reward


def test_the_placebo_pays_regardless_and_still_reports_the_truth():
    answers, truths = [r"\boxed{1}"] * 400, ["2"] * 200 + ["1"] * 200
    paid, right = score("random", answers, truths, seed=0, step=1)
    assert right == [0.0] * 200 + [1.0] * 200
    for half in (paid[:200], paid[200:]):
        assert 60 < sum(half) < 140  # a fair coin: 100, with more than five standard deviations
    assert score("boxed", answers, truths, seed=0, step=1) == (right, right)


def test_the_placebo_follows_the_seed():
    answers, truths = ["x"] * 64, ["2"] * 64
    first, _ = score("random", answers, truths, seed=0, step=1)
    assert score("random", answers, truths, seed=0, step=1)[0] == first
    assert score("random", answers, truths, seed=1, step=1)[0] != first
    assert score("random", answers, truths, seed=0, step=2)[0] != first


def test_a_reward_may_be_any_function(tmp_path, monkeypatch):
    (tmp_path / "own_reward.py").write_text("def length(answer, truth):\n    return len(answer)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert score("own_reward:length", ["ab", ""], ["", ""], seed=0, step=1)[0] == [2.0, 0.0]
    with pytest.raises(UserError, match="own_reward:depth"):
        load("own_reward:depth")
    with pytest.raises(UserError, match="absent_module:length"):
        load("absent_module:length")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1"])
def test_a_reward_that_is_no_number_is_an_error(value):
    with pytest.raises(UserError, match=r"answer 'a1' .* truth is 't1'.*finite number"):
        checked(lambda answer, truth: value, "a1", "t1")


def test_a_reward_that_raises_is_an_error():
    with pytest.raises(UserError, match=r"answer 'a1' .*ZeroDivisionError"):
        checked(lambda answer, truth: 1 / 0, "a1", "t1")


def test_every_draw_has_a_seed_of_its_own_that_depends_on_nothing_else():
    first = requests([[1], [2]], samples=3, seed=7, step=5)
    assert [request.prompt for request in first] == [[1]] * 3 + [[2]] * 3
    seeds = {request.seed for request in first}
    seeds |= {request.seed for request in requests([[1], [2]], samples=3, seed=7, step=6)}
    seeds |= {request.seed for request in requests([[1], [2]], samples=3, seed=8, step=5)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Neither on how many others there are.
    alone = requests([[1]], samples=1, seed=7, step=5)
    assert alone[0] == first[0]
    assert request_seed(1, 23) != request_seed(12, 3)
