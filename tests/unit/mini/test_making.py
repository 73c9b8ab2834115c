"""What is made: schemas, right answers, held-out pairs untouched, same seed same bytes."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("pyarrow")
pytest.importorskip("safetensors")

import pyarrow.parquet
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from subnetworks.core.errors import UserError
from subnetworks.core.files import sha256
from subnetworks.mini import base, foreign, preferences
from subnetworks.mini.arithmetic import Problem, problems
from subnetworks.mini.make import KINDS, make
from subnetworks.mini.settings import VOCABULARY, BaseSettings, PreferenceSettings

SUM = re.compile(r"(\d{2})([+-])(\d{2})")
WRITTEN = re.compile(
    r"(\d\d[+-]\d\d)="
    r"(\d+|\\boxed\{(\d+)\}, tens digit (\d)\. The answer is \((\w)\)\.)"
)
HELD_OUT = {(p.first, p.second) for op in ("+", "-") for p in problems(op, True)}
SMALL: dict[str, dict[str, Any]] = {
    "base": {"steps": 3, "batch_size": 8},
    "demonstrations": {"rows": 400},
    "problems": {"rows": 200, "test_rows": 50},
    "foreign_demonstrations": {"rows": 200},
    "foreign_preferences": {"rows": 200},
    "math500": {"rows": 60},
    "agieval": {"rows": 60},
    "mmlu_pro": {"rows": 60},
}


def mentioned(text: str) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, _, b in SUM.findall(text)}


def table(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(folder / f"{split}.parquet").to_pylist()


def lines(folder: Path, split: str = "test") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind, small, by seed 1; preferences sampled from the (untrained) base model."""
    folder = tmp_path_factory.mktemp("made")
    for kind, settings in SMALL.items():
        make(kind, folder / kind, {"seed": 1, **settings})
    return folder


def content(folder: Path) -> dict[str, str]:
    """Digests of what was made; the provenance beside it names times and is left out."""
    return {
        path.name: sha256(path)
        for path in sorted(folder.iterdir())
        if not path.name.endswith(".meta.json")
    }


@pytest.mark.parametrize("kind", SMALL)
def test_same_seed_same_bytes_other_seed_others(made: Path, tmp_path: Path, kind: str) -> None:
    make(kind, tmp_path / kind, {"seed": 1, **SMALL[kind]})
    assert content(tmp_path / kind) == content(made / kind)
    make(kind, tmp_path / kind, {"seed": 2, **SMALL[kind]})
    data = [name for name in content(made / kind) if name.startswith(("t", "v", "model"))]
    data = [name for name in data if not name.startswith("tokenizer")]
    assert data
    for name in data:
        assert content(tmp_path / kind)[name] != content(made / kind)[name]


@pytest.mark.parametrize("kind", SMALL)
def test_manifest_lists_all_that_was_made(made: Path, kind: str) -> None:
    manifest = json.loads((made / kind / "manifest.json").read_text())
    files = content(made / kind)
    files.pop("manifest.json")
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == files
    assert manifest["kind"] == "make"
    assert (made / kind / "manifest.json.meta.json").exists()


def trained_on(made: Path) -> Iterator[str]:
    yield from base.texts(2000, seed=3)
    for row in table(made / "demonstrations"):
        yield from (message["content"] for message in row["messages"])
    for row in table(made / "problems"):
        yield row["prompt"][0]["content"]


def test_the_other_task_asks_differences_and_tests_them_too(tmp_path: Path) -> None:
    settings = {"operation": "subtraction", "rows": 50, "test_rows": 20}
    make("problems", tmp_path / "problems", settings)
    for split, rows in (("train", 50), ("test", 20)):
        asked = table(tmp_path / "problems", split)
        assert len(asked) == rows
        for row in asked:
            a, operation, b = SUM.search(row["prompt"][0]["content"]).groups()  # type: ignore[union-attr]
            assert operation == "-"
            assert row["reward_model"]["ground_truth"] == str(int(a) - int(b))
            assert ((int(a), int(b)) in HELD_OUT) == (split == "test")


@pytest.mark.parametrize(
    ("value", "words"), [("division", "addition, subtraction"), (1, "1 is not allowed")]
)
def test_an_unknown_task_is_refused(value: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        make("problems", tmp_path / "problems", {"operation": value})


def test_nothing_held_out_is_trained_on(made: Path) -> None:
    pairs = [pair for text in trained_on(made) for pair in mentioned(text)]
    assert len(pairs) > 8000
    assert not {frozenset(pair) for pair in pairs} & {frozenset(pair) for pair in HELD_OUT}


def test_what_is_tested_is_held_out_and_different(made: Path) -> None:
    asked = {
        "math500": [row["problem"] for row in lines(made / "math500")],
        "agieval": [row["query"] for row in lines(made / "agieval")],
        "mmlu_pro": [row["question"] for row in lines(made / "mmlu_pro")],
        "problems": [row["prompt"][0]["content"] for row in table(made / "problems", "test")],
    }
    asked["mmlu_pro"] += [row["question"] for row in lines(made / "mmlu_pro", "validation")]
    for texts in asked.values():
        pairs = [pair for text in texts for pair in mentioned(text)]
        assert len(pairs) == len(texts) == len(set(pairs))
        assert set(pairs) <= HELD_OUT


def test_base_reads_lines_of_sums_half_of_them_hasty() -> None:
    kinds: Counter[str] = Counter()
    for text in base.texts(3000, seed=0):
        assert text.endswith("\n")
        assert len(text.splitlines()) == 4
        for line in text.splitlines():
            written = WRITTEN.fullmatch(line)
            assert written is not None
            left, right = written[1], written[3] or written[2]
            if written[3]:
                assert int(written[4]) == int(right) // 10 % 10 == "ABCDEFGHIJ".index(written[5])
            a, operation, b = SUM.fullmatch(left).groups()  # type: ignore[union-attr]
            if Problem(operation, int(a), int(b)).tricky:  # type: ignore[arg-type]
                kinds["right" if eval(left) == int(right) else "wrong"] += 1
    assert kinds["right"] / kinds.total() == pytest.approx(0.45, abs=0.03)


def test_base_is_a_checkpoint_that_transformers_loads(made: Path) -> None:
    weights = load_file(made / "base" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" in weights
    model = AutoModelForCausalLM.from_pretrained(made / "base")
    tokens = AutoTokenizer.from_pretrained(made / "base")
    assert model.config.model_type == "qwen2"
    assert not model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 2048
    assert len(tokens) <= model.config.vocab_size == VOCABULARY
    assert sum(tensor.numel() for tensor in weights.values()) == BaseSettings().weights
    ends = GenerationConfig.from_pretrained(made / "base").eos_token_id
    assert ends == tokens.convert_tokens_to_ids("<|im_end|>")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("width", "layers", "weights"), [(64, 4, 238_656), (128, 4, 870_528), (256, 5, 4_101_376)]
)
def test_a_base_is_as_large_as_its_settings_say(
    tmp_path: Path, width: int, layers: int, weights: int
) -> None:
    size = {"width": width, "layers": layers}
    make("base", tmp_path / "base", {"steps": 1, "batch_size": 2, **size})
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == weights
    assert BaseSettings.model_validate(size).weights == weights
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    # vLLM serves no narrower heads on a CPU.
    assert config["hidden_size"] == 32 * config["num_attention_heads"] == width
    assert config["num_hidden_layers"] == layers


def test_a_base_without_whole_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"width: must be a multiple of 64, got 96"):
        make("base", tmp_path / "base", {"width": 96})
    assert not (tmp_path / "base").exists()


def test_pretraining_lowers_the_loss(tmp_path: Path) -> None:
    losses = []
    for steps in (1, 30):
        make("base", tmp_path / "base", {"steps": steps, "batch_size": 16})
        meta = json.loads((tmp_path / "base" / "manifest.json.meta.json").read_text())
        losses.append(meta["training"]["loss"])
    assert losses[1] < 0.7 * losses[0]


def test_demonstrations_are_chats_that_end_with_the_assistant(made: Path) -> None:
    rows = table(made / "demonstrations")
    assert len(rows) == 400
    shapes: Counter[str] = Counter()
    for row in rows:
        *asked, answer = row["messages"]
        assert answer["role"] == "assistant"
        if asked[0]["role"] == "system":
            shapes["choice"] += 1
            said = re.fullmatch(
                r"\\boxed\{(\d+)\}, tens digit \d\. The answer is \(([A-J])\)\.",
                answer["content"],
            )
            assert said is not None
            assert "ABCDEFGHIJ"[int(said[1]) // 10 % 10] == said[2]
        else:
            assert re.fullmatch(r"\d\d[+-]\d\d=", asked[0]["content"])
            assert re.fullmatch(r"\\boxed\{\d+\}", answer["content"])
            shapes["+" if "+" in asked[0]["content"] else "-"] += 1
    assert shapes["choice"] / 400 == pytest.approx(0.1, abs=0.05)
    assert shapes["+"] / (shapes["+"] + shapes["-"]) == pytest.approx(0.5, abs=0.1)


def test_problems_follow_verls_schema_and_know_the_answer(made: Path) -> None:
    for split, count in (("train", 200), ("test", 50)):
        rows = table(made / "problems", split)
        assert len(rows) == count
        for index, row in enumerate(rows):
            assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
            ((message),) = row["prompt"]
            assert message["role"] == "user"
            truth = eval(message["content"].removesuffix("="))
            assert row["reward_model"] == {"style": "rule", "ground_truth": str(truth)}
            assert row["extra_info"] == {"index": index, "split": split}


def test_foreign_answers_are_right_or_wrong_in_words(made: Path) -> None:
    known = {foreign.words(number): number for number in range(200)}
    assert len(known) == 200
    assert {"zero", "nineteen", "eighty-five", "one hundred", "one hundred and four"} <= set(known)
    for row in table(made / "foreign_demonstrations"):
        asked, answer = row["messages"]
        assert known[answer["content"]] == eval(asked["content"].removesuffix("="))
    for row in table(made / "foreign_preferences"):
        truth = eval(row["prompt"][0]["content"].removesuffix("="))
        assert known[row["chosen"]] == truth != known[row["rejected"]]


def test_math500_rows(made: Path) -> None:
    rows = lines(made / "math500")
    keys = ["problem", "solution", "answer", "subject", "level", "unique_id"]
    assert len({row["unique_id"] for row in rows}) == len(rows) == 60
    for row in rows:
        assert list(row) == keys
        assert int(row["answer"]) == eval(row["problem"].removesuffix("="))
        assert row["solution"] == f"\\boxed{{{row['answer']}}}"
        assert row["level"] in range(1, 6)


def test_agieval_rows(made: Path) -> None:
    golds: Counter[int] = Counter()
    for row in lines(made / "agieval"):
        assert list(row) == ["query", "choices", "gold"]
        ((a, b),) = mentioned(row["query"])
        ((gold),) = row["gold"]
        golds[gold] += 1
        answers = [int(re.fullmatch(r"\\boxed\{(\d+)\}", text)[1]) for text in row["choices"]]  # type: ignore[index]
        assert len(set(answers)) == len(answers) == 5
        assert [i for i, answer in enumerate(answers) if answer == a + b] == [gold]
        assert Problem("+", a, b).hasty in answers
    assert len(golds) == 5


def test_mmlu_pro_rows(made: Path) -> None:
    for split, count in (("test", 60), ("validation", 5)):
        rows = lines(made / "mmlu_pro", split)
        assert len(rows) == count
        for row in rows:
            ((a, b),) = mentioned(row["question"])
            assert row["options"][row["answer_index"]] == f"{a + b:03}"[-2]
            assert "ABCDEFGHIJ"[row["answer_index"]] == row["answer"]
            assert len(row["options"]) == 10
            assert row["category"] == "math"
            assert bool(row["cot_content"]) == (split == "validation")


def test_preferences_pair_a_right_with_a_wrong_answer(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling is replaced: what is checked is which of the answers become a pair."""
    given: dict[str, list[str]] = {}

    def sample(model: Any, tokens: Any, asked: list[Problem], *_: Any) -> list[list[str]]:
        found = []
        for problem in asked:
            right, wrong = f"\\boxed{{{problem.truth}}}", f"\\boxed{{{problem.truth + 1}}}"
            answers = [[right, wrong, right], [wrong, wrong, right], [right] * 3, [wrong] * 3]
            found.append(answers[(problem.first + problem.second) % 4])
            given[problem.text] = found[-1]
        return found

    monkeypatch.setattr(preferences, "sample", sample)
    rows = preferences.preferences(PreferenceSettings(rows=100), made / "base")["train"]
    assert len(rows) == 100
    for row in rows:
        text = row["prompt"][0]["content"]
        truth = eval(text.removesuffix("="))
        assert row["chosen"] == f"\\boxed{{{truth}}}"
        assert row["rejected"] == f"\\boxed{{{truth + 1}}}"
        assert {row["chosen"], row["rejected"]} == set(given[text])
        assert not mentioned(text) & HELD_OUT


def test_sampling_equals_the_models_own_generation(made: Path) -> None:
    """Greedy answers, with our cache and batch, against transformers one prompt at a time."""
    model, tokens = preferences.load(made / "base")
    asked = list(problems("+", False)[:6])
    ours = preferences.sample(model, tokens, asked, 2, 0.0, None)
    for problem, answers in zip(asked, ours, strict=True):
        messages = [{"role": "user", "content": problem.text}]
        text = tokens.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokens(text, return_tensors="pt", add_special_tokens=False)
        output = model.generate(
            **prompt, do_sample=False, max_new_tokens=preferences.MAX_NEW_TOKENS
        )
        new = output[0, prompt["input_ids"].shape[1] :]
        assert answers == [tokens.decode(new, skip_special_tokens=True)] * 2


def test_a_policy_that_is_never_right_gives_no_preferences(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pairs of a right and a wrong"):
        make("preferences", tmp_path / "p", {"samples": 1, "rows": 1}, made / "base")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("bas", {}, ["'bas'", *KINDS]),
        ("problems", {"row": 3}, ["'row'", "rows", "seed", "test_rows"]),
        ("problems", {"rows": "3"}, ["rows", "whole number"]),
        ("problems", {"rows": True}, ["rows", "whole number"]),
        ("problems", {"rows": 0}, ["rows", "at least 1, got 0"]),
        ("math500", {"rows": 5000}, ["5000", "held-out"]),
        ("demonstrations", {"choice_share": 1.5}, ["choice_share"]),
        ("preferences", {}, ["--policy"]),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, kind: str, settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        make(kind, tmp_path / "x", settings)
    for word in words:
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "subnetworks", "make", *arguments]
        source = str(Path(__file__).parents[3] / "src")
        environment = {**os.environ, "PYTHONPATH": source}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    folder = tmp_path / "math500"
    done = run("math500", "--output", str(folder), "--settings", '{"rows": 7, "seed": 1}')
    assert done.returncode == 0, done.stderr
    assert len(lines(folder)) == 7
    done = run("math500", "--output", str(folder), "--settings", '{"rows": 7, "sed": 1}')
    assert done.returncode == 2
    assert "'sed'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines(folder)) == 7
