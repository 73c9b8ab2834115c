import pytest

from subnetworks.core.errors import UserError
from subnetworks.grading.boxes import last_boxed
from subnetworks.training.data.rewards import Ending, boxed, checked, load, read, score, written
from subnetworks.training.rollout.sampling import endings, request_seed, requests


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


def test_math_is_the_evaluations_grader():
    pytest.importorskip("math_verify")
    from subnetworks.grading.grader import grade

    pairs = [
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{\dfrac12}", "0.5"),
        (r"\boxed{2x+2}", "2(x+1)"),
        (r"\boxed{12}", "1 2"),
        (r"\boxed{(-2,1)}", "1,-2"),
        (r"\boxed{5} \boxed{6", "5"),
        (r"<think> \boxed{5}", "5"),
        ("5", "5"),
    ]
    answers, truths = zip(*pairs, strict=True)
    paid, right = score("math", answers, truths, seed=0, step=1)
    assert paid == right == [1, 1, 1, 0, 0, 0, 0, 0]
    assert paid == [float(grade(*pair).correct) for pair in pairs]
    # As text none is right, but where only white space differs.
    assert score("boxed", answers, truths, seed=0, step=1)[0] == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("reward", ["boxed", "math", "format"])
def test_an_answer_that_was_cut_off_is_paid_nothing(reward):
    if reward == "math":
        pytest.importorskip("math_verify")
    answers, ends = [r"\boxed{5}"] * 2, [Ending(cut=False), Ending(cut=True, share=1.0)]
    paid, right = score(reward, answers, ["5"] * 2, seed=0, step=1, endings=ends)
    assert paid == right == [1.0, 0.0]


def test_rewards_are_weighted():
    answers = [r"\boxed{5}", r"\boxed{6}", "5", r"\boxed{5}"]
    ends = [Ending(share=0.5), Ending(share=0.25), Ending(share=0.125), Ending(True, 1.0)]
    told = {"length": -1.0, "boxed": 2.0, "format": 0.5}
    paid, right = score(read(written(told)), answers, ["5"] * 4, seed=0, step=1, endings=ends)
    assert paid == [2.0, 0.25, -0.125, -1.0]
    assert right == [1.0, 0.0, 0.0, 0.0]
    assert read(written("a.b:c")) == {"a.b:c": 1.0}


def test_without_a_part_that_knows_the_truth_accuracy_is_that_of_boxed():
    paid, right = score({"format": 0.5}, [r"\boxed{5}", r"\boxed{6}"], ["5"] * 2, seed=0, step=1)
    assert (paid, right) == ([0.5, 0.5], [1.0, 0.0])


def test_a_misspelt_reward_is_not_taken_for_another():
    for name in ("boxd", "format", "length"):
        with pytest.raises(UserError, match=name):
            load(name)


def test_an_answer_is_cut_off_if_it_has_all_tokens_and_no_end():
    answers = [[1, 2, 9], [1, 2, 3], [1, 9], [1, 2, 8]]
    assert endings(answers, {8, 9}, 3) == [
        Ending(False, 1.0),
        Ending(True, 1.0),
        Ending(False, 2 / 3),
        Ending(False, 1.0),
    ]
