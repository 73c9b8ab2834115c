"""What a mistake in a benchmark's settings or rows says, before anything is started."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import shared, write_rows

from subnetworks.core import processor
from subnetworks.core.errors import UserError
from subnetworks.evaluation import engine, machine, rows, settings, tasks

MATH = {"task": "math500", "data": "x.jsonl"}
PRO = {"question": "q", "options": ["a", "b"], "answer": "A", "category": "math", "cot_content": ""}


def test_defaults_are_the_tasks_own() -> None:
    parsed = settings.parse("m", MATH)
    assert parsed.chat
    assert "\\boxed{}" in parsed.instruction
    assert (parsed.shots, parsed.max_tokens, parsed.samples, parsed.temperature) == (0, 2048, 1, 0)
    parsed = settings.parse("p", {"task": "mmlu_pro", "data": "x"})
    assert (parsed.shots, parsed.chat, parsed.instruction) == (5, False, "")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"task": "math50", "data": "x"}, ["math50", "did you mean 'math500'", "agieval_lsat_ar"]),
        ({"data": "x"}, ["missing key 'task'", "math500"]),
        ({**MATH, "shot": 1}, ["unknown key 'shot'", "did you mean 'shots'", "temperature"]),
        ({**MATH, "chat": "yes"}, ["chat", "'yes'", "true or false"]),
        ({**MATH, "limit": 0}, ["limit", "0"]),
        ({**MATH, "limit": True}, ["limit"]),
        ({**MATH, "temperature": -1}, ["temperature"]),
        ({**MATH, "samples": 4}, ["samples", "same"]),
        ({**MATH, "shots": 2}, ["shots"]),
        ({**MATH, "revision": "a" * 40}, ["data", "revision"]),
        ({"task": "math500"}, ["revision", "HuggingFaceH4/MATH-500", "data"]),
        ({"task": "math500", "revision": "main"}, ["revision", "40"]),
        ({"task": "agieval_lsat_ar", "data": "x", "max_tokens": 5}, ["max_tokens"]),
        ({"task": "mmlu_pro", "data": "x", "instruction": "think"}, ["instruction"]),
    ],
)
def test_mistakes_are_named(entry: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        settings.parse("mine", entry)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ["mine", *words])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("\n\n", ["no rows"]),
        ("{", ["line 1", "not JSON"]),
        ("[1]", ["line 1", "object"]),
        ('{"problem": "p", "answer": "1", "level": 1}\n{"problem": "p"}', ["line 2", "'answer'"]),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        rows.read(path, tasks.TASKS["math500"])
    assert all(word in str(caught.value) for word in [str(path), *words])


CHOICE = {"query": "q", "choices": ["a", "b"], "gold": [1]}
AGIEVAL = {"passage": None, "question": "q", "options": ["(A)x", "(B)y"], "label": "B"}
SCIENCE = {"Question": "q", "Correct Answer": "a"} | {
    f"Incorrect Answer {k}": "b" for k in (1, 2, 3)
}


@pytest.mark.parametrize(
    ("task", "row", "changed", "words"),
    [
        ("math500", {"problem": "p", "answer": "5", "level": 1}, {"answer": 5}, "text, got 5"),
        ("math500", {"problem": "p", "answer": "5", "level": 1}, {"answer": " "}, "an answer"),
        ("math500", {"problem": "p", "answer": "5", "level": 1}, {"problem": None}, "got nothing"),
        ("gsm8k", {"question": "q", "answer": "#### 5"}, {"answer": ["5"]}, "text, got ['5']"),
        ("aime24", {"Problem": "p", "Answer": 204}, {"Answer": 204.5}, "an answer, got 204.5"),
        ("aime24", {"Problem": "p", "Answer": "204"}, {"Answer": True}, "an answer, got true"),
        ("gpqa_main", SCIENCE, {"Correct Answer": 3}, "text, got 3"),
        ("agieval_lsat_ar", CHOICE, {"choices": []}, "2 to 10 texts, got []"),
        ("agieval_lsat_ar", CHOICE, {"choices": "ab"}, "2 to 10 texts, got 'ab'"),
        ("agieval_lsat_ar", CHOICE, {"choices": ["a", 2]}, "2 to 10 texts"),
        ("agieval_lsat_ar", CHOICE, {"gold": [2]}, "each from 0 to 1, got [2]"),
        ("agieval_lsat_ar", CHOICE, {"gold": [-1]}, "each from 0 to 1, got [-1]"),
        ("agieval_lsat_ar", CHOICE, {"gold": 1}, "in a list"),
        ("agieval_lsat_ar", CHOICE, {"gold": []}, "in a list"),
        ("agieval_lsat_ar", AGIEVAL, {"options": []}, "2 to 10 texts, got []"),
        ("agieval_lsat_ar", AGIEVAL, {"options": [1, 2]}, "2 to 10 texts"),
        ("agieval_lsat_ar", AGIEVAL, {"label": 1}, "label: 1 is none of A, B"),
        ("agieval_lsat_ar", AGIEVAL, {"question": 7}, "question: expected text, got 7"),
        ("agieval_lsat_ar", AGIEVAL, {"passage": 7}, "passage: expected text, got 7"),
        ("mmlu_pro", PRO, {"options": []}, "2 to 10 texts, got []"),
        ("mmlu_pro", PRO, {"options": list("abcdefghijk")}, "2 to 10 texts"),
        ("mmlu_pro", PRO, {"answer": "C"}, "answer: 'C' is none of A, B"),
        ("mmlu_pro", PRO, {"answer": "AB"}, "answer: 'AB' is none of A, B"),
        ("mmlu_pro", PRO, {"answer": 0}, "answer: expected text, got 0"),
    ],
)
def test_rows_that_cannot_be_graded_are_refused(
    tmp_path: Path, task: str, row: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    path = write_rows(tmp_path / "test.jsonl", [row])
    assert len(rows.read(path, tasks.TASKS[task])) == 1
    write_rows(path, [row, {**row, **changed}])
    with pytest.raises(UserError) as caught:
        rows.read(path, tasks.TASKS[task])
    message = str(caught.value)
    assert message.startswith(f"{path}: line 2: {next(iter(changed))}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=tasks.TASKS)
def test_what_is_checked_of_a_row_is_there(task: tasks.Task) -> None:
    assert {*task.texts, task.gold, task.options or task.gold} <= set(task.columns)


def test_one_category_leaves_the_others_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.jsonl", [PRO, {**PRO, "category": "computer science"}])
    assert len(rows.read(path, tasks.TASKS["mmlu_pro"])) == 2
    assert len(rows.read(path, tasks.TASKS["mmlu_pro_math"])) == 1
    assert len(rows.read(path, tasks.TASKS["mmlu_pro_computer_science"])) == 1
    with pytest.raises(UserError, match="no rows with category 'law'"):
        rows.read(path, tasks.TASKS["mmlu_pro_law"])


def test_examples_for_the_prompt_are_needed_only_with_shots(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", [PRO])
    task = tasks.TASKS["mmlu_pro_math"]
    assert rows.locate(str(tmp_path), task, 0, "b").shots is None
    with pytest.raises(UserError, match=r"validation\.jsonl: no such file.*shots: 0"):
        rows.locate(str(tmp_path), task, 5, "b")
    write_rows(tmp_path / "validation.jsonl", [PRO])
    assert rows.locate(str(tmp_path), task, 5, "b").shots == tmp_path / "validation.jsonl"
    with pytest.raises(UserError, match="no such file"):
        rows.locate(str(tmp_path / "absent"), task, 0, "b")


def test_agievals_own_schema_is_read(tmp_path: Path) -> None:
    row = {"passage": "P. ", "question": "Which?", "options": ["(A)x", "(B)y"], "label": "B"}
    path = write_rows(tmp_path / "test.jsonl", [row])
    assert rows.read(path, tasks.TASKS["agieval_lsat_ar"]) == [
        {
            "query": "P. Q: Which? Answer Choices: (A)x (B)y\nA: Among A through B, the answer is",
            "choices": ["(A)x", "(B)y"],
            "gold": [1],
        }
    ]
    write_rows(path, [{**row, "label": "C"}])
    with pytest.raises(UserError, match="label: 'C' is none of A, B"):
        rows.read(path, tasks.TASKS["agieval_lsat_ar"])


@pytest.mark.parametrize(
    ("file", "count", "choices"),
    [("lsat-ar", 230, 5), ("lsat-lr", 510, 5), ("lsat-rc", 269, 5), ("logiqa-en", 651, 4)],
)
def test_real_agieval_rows_keep_their_gold(file: str, count: int, choices: int) -> None:
    path = shared(f"agieval/{file}.jsonl")
    read = rows.read(path, tasks.TASKS[f"agieval_{file.replace('-', '_')}"])
    raw = [json.loads(line) for line in path.open(encoding="utf-8")]
    assert len(read) == count
    unprinted = 0
    for row, original in zip(read, raw, strict=True):
        assert len(row["choices"]) == choices
        gold, letter = row["choices"][row["gold"][0]], original["label"]
        if not gold.startswith(f"({letter})"):
            assert not any(choice.startswith(f"({letter})") for choice in row["choices"])
            assert row["gold"] == ["ABCDE".index(letter)]
            unprinted += 1
    assert unprinted == (7 if file == "logiqa-en" else 0)


def test_the_label_is_the_printed_letter(tmp_path: Path) -> None:
    # As LogiQA lists some rows; deduction from one of their passages says that the letter counts.
    options = ["(A)Wu on Sunday.", "(C)Qian on Tuesday.", "(B)Li on Tuesday.", "(D)Sun on Friday."]
    row = {"passage": None, "question": "Who?", "options": options, "label": "C"}
    path = write_rows(tmp_path / "test.jsonl", [row])
    (read,) = rows.read(path, tasks.TASKS["agieval_logiqa_en"])
    assert read["choices"][read["gold"][0]] == "(C)Qian on Tuesday."


def test_a_machine_has_defaults_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: True)
    cpu, cuda = machine.parse({"kind": "cpu"}), machine.parse({"kind": "cuda", "sequences": 7})
    assert (cpu.backend, cpu.dtype, cpu.sequences, cpu.ready_within_s) == (
        "served",
        "bfloat16",
        128,
        600,
    )
    assert (cuda.sequences, cuda.ready_within_s) == (7, 1800)


def test_a_processor_without_bfloat16_serves_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: False)

    def dtype(**keys: Any) -> str:
        parsed = machine.parse({"kind": "cpu", **keys})
        assert parsed.as_dict()["dtype"] == parsed.dtype
        return parsed.dtype

    assert dtype() == dtype(bfloat16="emulated") == "float32"
    assert dtype(dtype="bfloat16") == dtype(bfloat16="native") == "bfloat16"
    assert dtype(kind="cuda") == "bfloat16"


@pytest.mark.parametrize(("asked", "size"), [({}, 1 << 30), ({"kv_cache_gb": 0.5}, 1 << 29)])
def test_vllm_is_given_its_cache_in_whole_bytes(asked: dict[str, Any], size: int) -> None:
    words = engine.command_line(engine.options(machine.parse({"kind": "cpu", **asked}), 64))
    assert words[words.index("--kv-cache-memory-bytes") + 1] == str(size)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, ["missing key 'kind'"]),
        ({"kind": "tpu"}, ["kind: 'tpu' is not allowed", "cpu, cuda"]),
        ({"kind": "cpu", "backend": "vlm"}, ["backend: 'vlm' is not allowed", "served, vllm, hf"]),
        ({"kind": "cpu", "dtype": "fp16"}, ["dtype: 'fp16' is not allowed", "bfloat16"]),
        (
            {"kind": "cpu", "bfloat16": "fast"},
            ["bfloat16: 'fast'", "native, emulated"],
        ),
        ({"kind": "cpu", "sequence": 3}, ["unknown key 'sequence'", "sequences"]),
        ({"kind": "cpu", "threads": 0}, ["threads: must be at least 1, got 0"]),
        ({"kind": "cpu", "devices": True}, ["devices: expected a whole number, got true"]),
        ({"kind": "cpu", "max_model_len": -1}, ["max_model_len: must be at least 0, got -1"]),
        ({"kind": "cpu", "kv_cache_gb": "1"}, ["kv_cache_gb: expected a number, got '1'"]),
        ({"kind": "cuda", "memory_share": 1.5}, ["memory_share"]),
    ],
)
def test_mistakes_about_the_machine_are_named(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        machine.parse(keys)
    assert all(word in str(caught.value) for word in words)
