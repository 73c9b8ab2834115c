"""From rows to scores, by lm-eval, against a stand-in that answers by a known rule."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Rule, needs_evaluation, save_checkpoint, shared, write_rows

needs_evaluation()

import pyarrow.parquet  # noqa: E402

from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.evaluation import harness  # noqa: E402

CPU = {"kind": "cpu", "devices": 1, "threads": 1, "max_model_len": 16384}


def problems(count: int) -> list[dict[str, Any]]:
    return [
        {"problem": f"{i}+{i}=", "answer": str(2 * i), "level": i % 5 + 1, "unique_id": f"t/{i}"}
        for i in range(count)
    ]


def samples(output: Path, benchmark: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(output / f"{benchmark}.samples.parquet").to_pylist()


def score(output: Path, benchmark: str) -> dict[str, Any]:
    return json.loads((output / f"{benchmark}.json").read_text())


def number(prompt: str) -> int:
    found = re.search(r"(\d+)\+", prompt)
    assert found is not None
    return int(found.group(1))


def test_math500_by_level(checkpoint: Path, rule: Rule, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(50))
    # Right for even numbers, a number without a box for 3, 13, …, wrong otherwise.
    rule.answer = lambda prompt, _: (
        rf"\boxed{{{2 * number(prompt)}.0}}"
        if number(prompt) % 2 == 0
        else str(2 * number(prompt))
        if number(prompt) % 10 == 3
        else r"\boxed{-1}"
    )
    entry = {"task": "math500", "data": str(data.parent), "instruction": " Box {{it}} {% now %}."}
    harness.evaluate(checkpoint, {"mine": entry}, tmp_path / "out", CPU)
    found = score(tmp_path / "out", "mine")
    assert (found["score"], found["n"]) == (0.5, 50)
    assert found["stderr"] == pytest.approx((0.25 / 49) ** 0.5)
    assert found["interval_95"][0] < 0.5 < found["interval_95"][1]
    assert {name: group["n"] for name, group in found["groups"].items()} == dict.fromkeys(
        "12345", 10
    )
    assert found["groups"]["1"]["score"] == 0.5
    assert found["other_metrics"]["boxed,none"]["score"] == 0.9
    kept = samples(tmp_path / "out", "mine")
    assert [row["row"] for row in kept] == [f"t/{i}" for i in range(50)]
    assert [row["correct"] for row in kept] == [float(i % 2 == 0) for i in range(50)]
    assert kept[7]["prompt"] == (
        "<|im_start|>user\n7+7= Box {{it}} {% now %}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert kept[4]["answer"] == r"\boxed{8.0}"
    index = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert index["scores"]["mine"]["score"] == 0.5
    assert (tmp_path / "out" / "mine.json.meta.json").is_file()
    assert {request["temperature"] for request in rule.requests} == {0.0}


def test_finished_scores_are_kept_until_something_changes(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(4))
    entry = {"task": "math500", "data": str(data)}
    out = tmp_path / "out"
    harness.evaluate(checkpoint, {"mine": entry}, out, CPU)
    before = (out / "mine.json").read_bytes()
    harness.evaluate(checkpoint, {"mine": entry}, out, CPU)
    assert (rule.started, (out / "mine.json").read_bytes()) == (1, before)
    harness.evaluate(checkpoint, {"mine": {**entry, "max_tokens": 9}}, out, CPU)
    assert rule.started == 2
    write_rows(data, problems(5))
    harness.evaluate(checkpoint, {"mine": {**entry, "max_tokens": 9}}, out, CPU)
    assert (rule.started, score(out, "mine")["n"]) == (3, 5)


def test_an_interrupted_evaluation_asks_only_what_is_missing(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    first = write_rows(tmp_path / "m" / "test.jsonl", problems(40))
    rows = [{"query": f"Q{i}", "choices": [" a", " b"], "gold": [i % 2]} for i in range(60)]
    second = write_rows(tmp_path / "a" / "test.jsonl", rows)
    benchmarks = {
        "one": {"task": "math500", "data": str(first), "max_tokens": 8},
        "two": {"task": "agieval_lsat_lr", "data": str(second)},
    }
    rule.answer = lambda prompt, _: rf"\boxed{{{2 * number(prompt)}}}"
    rule.value = lambda text: -0.5 if text.endswith(" a") else -1.0
    rule.breaks_after = 90
    out = tmp_path / "out"
    with pytest.raises(UserError, match="died during two"):
        harness.evaluate(checkpoint, benchmarks, out, {**CPU, "sequences": 32})
    assert score(out, "one")["score"] == 1.0
    assert not (out / "two.json").exists()
    assert not (out / "two.samples.parquet").exists()
    assert not (out / "scores.json").exists()
    answered = set(rule.asked)
    asked_before = len(rule.asked)
    assert 90 <= asked_before < 160
    rule.breaks_after = None
    harness.evaluate(checkpoint, benchmarks, out, {**CPU, "sequences": 32})
    again = rule.asked[asked_before:]
    assert len(again) == 160 - len(answered)
    assert not answered & set(again)
    assert score(out, "two")["score"] == 0.5
    assert score(out, "two")["requests_resumed"] == asked_before - 40
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


# How often each letter is the answer, counted in the files by hand (jq -r .label | sort | uniq -c).
SHARES = {
    "lsat-ar": {"A": 53, "B": 41, "C": 47, "D": 45, "E": 44},
    "lsat-lr": {"A": 99, "B": 107, "C": 99, "D": 110, "E": 95},
    "lsat-rc": {"A": 47, "B": 66, "C": 47, "D": 60, "E": 49},
    "logiqa-en": {"A": 132, "B": 159, "C": 179, "D": 181},
}


@pytest.mark.parametrize("file", list(SHARES))
def test_a_constant_letter_scores_its_share(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    from lm_eval.api.model import LM

    from subnetworks.evaluation import backends, keeping

    path = shared(f"agieval/{file}.jsonl")
    raw = [json.loads(line) for line in path.open(encoding="utf-8")]
    rows = {}
    for row in raw:
        choices = " ".join(row["options"])
        query = f"{row['passage'] or ''}Q: {row['question']} Answer Choices: {choices}\n"
        rows[query] = row["options"]

    class Constant(keeping.Keeping, Likelihoods, LM):  # type: ignore[misc]
        """Holds the option of one letter for certain, whatever the question."""

        letter = ""

        def lengths(self, texts: Sequence[str]) -> list[int]:
            return [1] * len(texts)

        def value(self, context: str, continuation: str) -> float:
            options = rows[context.rpartition("A: Among")[0]]
            # A few options print no letter; there the place counts.
            place = options["ABCDE".index(self.letter)]
            chosen = next((o for o in options if o.startswith(f"({self.letter})")), place)
            return 0.0 if continuation == f" {chosen}" else -1.0

    model = Constant()

    @contextlib.contextmanager
    def opened(*_: Any) -> Iterator[backends.Opened]:
        yield backends.Opened(model, lambda: 0.0, lambda error, during: None)

    monkeypatch.setattr(backends, "opened", opened)
    entry = {"task": f"agieval_{file.replace('-', '_')}", "data": str(path)}
    for model.letter, right in SHARES[file].items():
        harness.evaluate(checkpoint, {model.letter: entry}, tmp_path, CPU)
        found = score(tmp_path, model.letter)
        assert found["n"] == len(raw)
        assert sum(row["correct"] for row in samples(tmp_path, model.letter)) == right
        assert found["score"] == pytest.approx(right / len(raw), abs=1e-12)
    assert sum(SHARES[file].values()) == len(raw)


class Likelihoods:
    """The rest of a model that knows only the likelihood of one text after another."""

    def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        return [(self.value(*request.args), False) for request in requests]

    def generate_until(self, requests: Any, **_: Any) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = generate_until


def test_mmlu_pro_by_category_with_shots(checkpoint: Path, rule: Rule, tmp_path: Path) -> None:
    def row(number: int, category: str) -> dict[str, Any]:
        letter = "ABCDEFGHIJ"[number % 10]
        return {
            "question_id": number,
            "question": f"{number}+0 is?",
            "options": [str(k) for k in range(10)],
            "answer": letter,
            "category": category,
            "cot_content": f"A: Let's think step by step. The answer is ({letter}).",
        }

    tested = [row(i, "math" if i < 6 else "computer science") for i in range(10)]
    write_rows(tmp_path / "p" / "test.jsonl", tested)
    shots = [row(100 + i, category) for category in ("math", "computer science") for i in range(5)]
    write_rows(tmp_path / "p" / "validation.jsonl", shots)

    # Right in mathematics only; the stock rule reads the letter out of a sentence.
    def answer(prompt: str, _: dict[str, Any]) -> str:
        asked = int(re.findall(r"(\d+)\+0 is", prompt)[-1])
        right = f"so the answer is ({'ABCDEFGHIJ'[asked]}). Bye"
        return right if "about math" in prompt else "I do not know"

    rule.answer = answer
    entry = {"task": "mmlu_pro", "data": str(tmp_path / "p"), "shots": 2, "max_tokens": 30}
    harness.evaluate(checkpoint, {"pro": entry}, tmp_path / "out", CPU)
    found = score(tmp_path / "out", "pro")
    assert found["score"] == 0.6
    assert {k: (g["score"], g["n"]) for k, g in found["groups"].items()} == {
        "math": (1.0, 6),
        "computer science": (0.0, 4),
    }
    assert found["data"]["rows"] == 10
    kept = samples(tmp_path / "out", "pro")
    assert len({row["doc_id"] for row in kept}) == 10
    assert all(row["prompt"].count("Question:") == 3 for row in kept)
    math = next(row for row in kept if row["group"] == "math")
    assert "100+0" in math["prompt"]
    assert "105+0" not in math["prompt"]


def test_repeated_answers_are_drawn_apart_and_averaged(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(6))
    seeds: set[int] = set()

    def answer(prompt: str, request: dict[str, Any]) -> str:
        seeds.add(request["seed"])
        right = number(prompt) % 2 == 0 and request["seed"] % 2 == 0
        return rf"\boxed{{{2 * number(prompt) if right else -1}}}"

    rule.answer = answer
    entry = {"task": "math500", "data": str(data), "temperature": 0.7, "samples": 4}
    harness.evaluate(checkpoint, {"mine": entry}, tmp_path / "out", CPU, seed=10)
    found = score(tmp_path / "out", "mine")
    assert seeds == {10, 11, 12, 13}
    assert (found["metric"], found["n"], found["score"]) == ("avg@4", 6, 0.25)
    assert found["other_metrics"]["pass@1"]["score"] == pytest.approx(0.25)
    # Two of four right: 1 - C(2,2)/C(4,2) = 5/6 for half of the problems.
    assert found["other_metrics"]["pass@2"]["score"] == pytest.approx(0.5 * 5 / 6)
    assert found["other_metrics"]["pass@4"]["score"] == pytest.approx(0.5)
    assert [row["scores"] for row in samples(tmp_path / "out", "mine")][:2] == [
        [1.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]


def test_the_real_gsm8k_with_examples(checkpoint: Path, rule: Rule, tmp_path: Path) -> None:
    folder = shared("gsm8k/test.jsonl").parent
    rows = [json.loads(line) for line in (folder / "test.jsonl").open(encoding="utf-8")][:40]
    answers = {row["question"]: row["answer"] for row in rows}

    def answer(prompt: str, _: dict[str, Any]) -> str:
        question = prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:")
        number = len(question) % 3
        right = answers[question].rpartition("#### ")[2]
        # The reference's own form; the number alone; nothing.
        return ["so\n#### " + right, f"It is {right}.", "I do not know"][number]

    rule.answer = answer
    # The rows of the file that examples come from, too: beside the tested ones.
    write_rows(tmp_path / "g" / "test.jsonl", rows)
    (tmp_path / "g" / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    entry = {"task": "gsm8k", "data": str(tmp_path / "g"), "shots": 3, "max_tokens": 64}
    harness.evaluate(checkpoint, {"gsm8k": entry}, tmp_path / "out", CPU)
    kinds = [len(row["question"]) % 3 for row in rows]
    found = score(tmp_path / "out", "gsm8k")
    assert found["score"] == pytest.approx(kinds.count(0) / 40)
    flexible = found["other_metrics"]["exact_match,flexible-extract"]["score"]
    assert flexible == pytest.approx((40 - kinds.count(2)) / 40)
    prompt = samples(tmp_path / "out", "gsm8k")[0]["prompt"]
    assert prompt.count("Question: ") == 4
    assert prompt.count("#### ") == 3


def test_gpqa_from_a_file(checkpoint: Path, rule: Rule, tmp_path: Path) -> None:
    rows = [
        {
            "Question": f"Which is {i}?",
            "Correct Answer": f"right {i}",
            **{f"Incorrect Answer {k}": f"wrong {k} of {i}" for k in (1, 2, 3)},
        }
        for i in range(24)
    ]
    data = write_rows(tmp_path / "q.jsonl", rows)

    def value(text: str) -> float:
        letter = text[-2]
        at = re.search(rf"\({letter}\) (\w+) ", text)
        assert at is not None
        return 0.0 if at.group(1) == "right" else -1.0

    rule.value = value
    entry = {"task": "gpqa_diamond", "data": str(data)}
    harness.evaluate(checkpoint, {"gpqa": entry}, tmp_path / "out", CPU)
    assert score(tmp_path / "out", "gpqa")["score"] == 1.0
    kept = samples(tmp_path / "out", "gpqa")
    assert len({row["gold"] for row in kept}) == 4  # the right one stands at every place


def test_aime_is_averaged_over_samples(checkpoint: Path, rule: Rule, tmp_path: Path) -> None:
    rows = [{"ID": f"2024-{i}", "Problem": f"{i}+{i}=", "Answer": 2 * i} for i in range(5)]
    data = write_rows(tmp_path / "a.jsonl", rows)
    rule.answer = lambda prompt, request: (
        rf"so $x = 3$ and \boxed{{{2 * number(prompt)}}}" if request["seed"] == 1 else "$7$"
    )
    entry = {
        "task": "aime24",
        "data": str(data),
        "chat": True,
        "temperature": 0.6,
        "samples": 4,
        "max_tokens": 64,
    }
    harness.evaluate(checkpoint, {"aime24": entry}, tmp_path / "out", CPU, seed=0)
    found = score(tmp_path / "out", "aime24")
    assert (found["metric"], found["n"], found["score"]) == ("avg@4", 5, 0.25)
    assert found["other_metrics"]["pass@2"]["score"] == pytest.approx(0.5)
    assert [row["row"] for row in samples(tmp_path / "out", "aime24")] == [r["ID"] for r in rows]


def test_a_prompt_longer_than_the_context(rule: Rule, tmp_path: Path) -> None:
    short = save_checkpoint(tmp_path / "short", positions=64)
    long = {"problem": "x" * 60, "answer": "1", "level": 1}
    data = write_rows(tmp_path / "m" / "test.jsonl", [*problems(2), long])
    entry = {"task": "math500", "data": str(data), "instruction": "", "max_tokens": 8}
    with pytest.raises(UserError, match=r"question 2 of mine takes \d+ tokens.*context 64"):
        harness.evaluate(short, {"mine": entry}, tmp_path / "out", CPU)
    assert rule.asked == []
    assert not (tmp_path / "out" / "mine.json").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("tokenizer.json", ["no tokenizer"]),
        ("chat_template.jinja", ["no chat template", "chat: false"]),
        ("model.safetensors", ["safetensors"]),
        ("config.json", ["config.json"]),
    ],
)
def test_an_incomplete_checkpoint_starts_no_server(
    rule: Rule, tmp_path: Path, file: str, words: list[str]
) -> None:
    folder = save_checkpoint(tmp_path / "c", positions=128)
    (folder / file).unlink()
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(2))
    with pytest.raises(UserError) as caught:
        harness.evaluate(folder, {"m": {"task": "math500", "data": str(data)}}, tmp_path, CPU)
    assert all(word in str(caught.value) for word in words)
    assert rule.started == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows in it"),
        ([{"problem": "p", "level": 1}], "line 1: no column 'answer'; math500 reads problem"),
    ],
)
def test_bad_rows_start_no_server_and_leave_no_score(
    checkpoint: Path, rule: Rule, tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    good = write_rows(tmp_path / "good.jsonl", problems(2))
    bad = write_rows(tmp_path / "bad.jsonl", rows)
    benchmarks = {
        name: {"task": "math500", "data": str(p)} for name, p in zip("ab", (good, bad), strict=True)
    }
    with pytest.raises(UserError, match=words):
        harness.evaluate(checkpoint, benchmarks, tmp_path / "out", CPU)
    assert rule.started == 0
    assert not (tmp_path / "out").exists()


def test_a_request_that_the_server_refuses_is_no_score(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    rule.refuses = True
    data = write_rows(tmp_path / "m.jsonl", problems(3))
    with pytest.raises(UserError, match=r"the server failed during mine \(400"):
        harness.evaluate(
            checkpoint, {"mine": {"task": "math500", "data": str(data)}}, tmp_path / "out", CPU
        )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".mine.answers.jsonl",
        ".tasks",
        "scores.json.meta.json",  # says that an evaluation has begun here
    ]


def test_answers_that_were_cut_or_still_thinking_are_wrong_and_counted(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(20))

    def answer(prompt: str, _: Any) -> str:
        right = rf"\boxed{{{2 * number(prompt)}}}"
        return {0: right, 1: right, 2: f"<think>{right}", 3: f"<think> … </think>{right}"}[
            number(prompt) % 4
        ]

    rule.answer = answer
    rule.finish = lambda prompt: "length" if number(prompt) % 4 == 1 else "stop"
    entry = {"task": "math500", "data": str(data.parent), "instruction": ""}
    index = harness.evaluate(checkpoint, {"mine": entry}, tmp_path / "out", CPU)
    found = score(tmp_path / "out", "mine")
    assert (found["score"], found["cut"], found["n"]) == (0.5, 5, 20)
    assert index["scores"]["mine"]["cut"] == 5
    # Level i % 5 + 1: every fourth question of each was cut.
    assert {group["cut"] for group in found["groups"].values()} == {1}
    assert found["other_metrics"]["boxed,none"]["score"] == 0.5
    kept = samples(tmp_path / "out", "mine")
    assert [row["correct"] for row in kept] == [float(i % 4 in (0, 3)) for i in range(20)]
    assert [row["cut"] for row in kept] == [[i % 4 == 1] for i in range(20)]
    assert kept[2]["answer"] == r"<think>\boxed{4}"  # all that was written


def test_a_cut_answer_is_wrong_whatever_the_benchmark_reads(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    rows = [{"question": f"{i}+{i}=", "answer": f"so #### {2 * i}"} for i in range(8)]
    data = write_rows(tmp_path / "g" / "test.jsonl", rows)
    rule.answer = lambda prompt, _: f"#### {2 * number(prompt)}"
    rule.finish = lambda prompt: "length" if number(prompt) < 2 else "stop"
    entry = {"task": "gsm8k", "data": str(data.parent), "shots": 0}
    harness.evaluate(checkpoint, {"g": entry}, tmp_path / "out", CPU)
    found = score(tmp_path / "out", "g")
    assert (found["score"], found["cut"], found["n"]) == (0.75, 2, 8)


def test_cut_answers_stay_cut_when_an_evaluation_goes_on(
    checkpoint: Path, rule: Rule, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "m" / "test.jsonl", problems(40))
    rule.answer = lambda prompt, _: rf"\boxed{{{2 * number(prompt)}}}"
    rule.finish = lambda prompt: "length"
    rule.breaks_after = 12
    benchmarks = {"mine": {"task": "math500", "data": str(data.parent), "instruction": ""}}
    with contextlib.suppress(UserError):
        harness.evaluate(checkpoint, benchmarks, tmp_path / "out", CPU)
    rule.finish = lambda prompt: "stop"
    rule.breaks_after = None
    harness.evaluate(checkpoint, benchmarks, tmp_path / "out", CPU)
    found = score(tmp_path / "out", "mine")
    assert found["cut"] == found["requests_resumed"] > 0
    assert found["score"] == 1 - found["cut"] / 40
