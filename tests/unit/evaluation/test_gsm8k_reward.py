"""The reward `gsm8k` pays for what lm-eval's task scores as right."""

import pytest

pytest.importorskip("lm_eval")

import yaml
from lm_eval import tasks
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

from subnetworks.training.data.rewards import gsm8k

ANSWERS = [
    "She has 2+3=<<2+3=5>>5.\n#### 5",
    "#### 5.",
    "#### 5.0",
    "#### 1,234",
    "#### -5",
    "#### $5",
    "####5",
    "The answer is 5",
    "#### 5\n#### 6",
    "#### 6\n#### 5",
    "#### five",
    "",
]


@pytest.mark.parametrize("truth", ["5", "1234", "-5", "5.0", "1,234"])
def test_it_agrees_with_lm_evals_strict_match(truth: str) -> None:
    folder = next(iter(tasks.__path__))
    with open(f"{folder}/gsm8k/gsm8k.yaml", encoding="utf-8") as file:
        definition = yaml.safe_load(file)
    strict = next(one for one in definition["filter_list"] if one["name"] == "strict-match")
    found = RegexFilter(regex_pattern=strict["filter"][0]["regex_pattern"])
    chosen = found.apply([[answer] for answer in ANSWERS], [{}] * len(ANSWERS))
    metric = definition["metric_list"][0]
    for answer, (extracted,) in zip(ANSWERS, chosen, strict=True):
        score = exact_match_hf_evaluate(
            predictions=[extracted],
            references=[f"so it is {truth}\n#### {truth}"],
            regexes_to_ignore=metric["regexes_to_ignore"],
            ignore_case=metric["ignore_case"],
            ignore_punctuation=metric["ignore_punctuation"],
        )["exact_match"]
        assert gsm8k(answer, truth) == score, answer
