"""Data sets of one's own files: every format, TRL's columns, and rows that no run can use."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pydantic")

import pyarrow
import pyarrow.parquet

from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import checks, local_data
from subnetworks.training.data.sources import LocalSettings
from subnetworks.training.settings import parse_settings

Row = dict[str, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def write(path: Path, rows: list[Row]) -> str:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows, indent=1))
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".csv":
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return str(path)


def read(source: str, folder: Path, split: str = "train", **settings: Any) -> list[Row]:
    local_data.read(source, folder / "out", settings)
    rows: list[Row] = pyarrow.parquet.read_table(folder / "out" / f"{split}.parquet").to_pylist()
    return rows


def check(folder: Path, algorithm: str) -> None:
    settings = {"algorithm": algorithm, "steps": 1, "batch_size": 2, "learning_rate": 1}
    checks.check(folder / "out", parse_settings(settings))


TEXT = [{"q": f'{n} "plus"\n1, is', "good": str(n + 1), "bad": "", "n": str(n)} for n in range(6)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"rows{suffix}", TEXT)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert read(source, tmp_path, gives="preferences", columns=columns) == [
        {"prompt": [user(row["q"])], "chosen": row["good"], "rejected": ""} for row in TEXT
    ]
    check(tmp_path, "dpo")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "path"
    assert list(manifest["settings"]["read"]) == [source]


ASKED = [{"role": "system", "content": "Be brief."}, user("1+1?")]
PAIR = {"prompt": ASKED, "chosen": "2", "rejected": "3"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, {**PAIR, "prompt": [user("1+1?")]}),
        ({"prompt": ASKED, "chosen": [assistant("2")], "rejected": [assistant("3")]}, PAIR),
        ({"chosen": [*ASKED, assistant("2")], "rejected": [*ASKED, assistant("3")]}, PAIR),
        (
            {
                "prompt": "not read",
                "chosen": [*ASKED, assistant("2")],
                "rejected": [*ASKED, assistant("3")],
            },
            PAIR,
        ),
    ],
)
def test_pairs_as_trl_has_them(tmp_path: Path, given: Row, made: Row) -> None:
    source = write(tmp_path / "rows.jsonl", [given, given])
    assert read(source, tmp_path, gives="preferences") == [made, made]
    check(tmp_path, "dpo")
    check(tmp_path, "kto")


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [*ASKED, assistant("2")], "prompt": "not read"},
        {"prompt": ASKED, "completion": "2"},
        {"prompt": ASKED, "completion": [assistant("2")]},
    ],
)
def test_conversations_as_trl_has_them(tmp_path: Path, given: Row) -> None:
    source = write(tmp_path / "rows.jsonl", [given, given])
    made = {"messages": [*ASKED, assistant("2")]}
    assert read(source, tmp_path, gives="conversations") == [made, made]
    check(tmp_path, "sft")


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": ASKED, "truth": 2},
        {"prompt": ASKED, "reward_model": {"style": "rule", "ground_truth": "2"}},
    ],
)
def test_problems_are_written_in_verls_schema(tmp_path: Path, given: Row) -> None:
    source = write(tmp_path / "rows.jsonl", [given, given])
    assert read(source, tmp_path, gives="problems")[1] == {
        "data_source": "path",
        "prompt": ASKED,
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 1, "split": "train"},
    }
    check(tmp_path, "grpo")


ANSWERS = [
    {"asked": "1+1?", "said": "2", "right": 1},
    {"asked": "1+1?", "said": "3", "right": 0.0},
    {"asked": "2+2?", "said": "4", "right": True},
    {"asked": "1+1?", "said": "two", "right": "true"},
    {"asked": "1+1?", "said": "eleven", "right": False},
    {"asked": "3+3?", "said": "7", "right": 0},
]
JUDGED: dict[str, Any] = {
    "gives": "preferences",
    "columns": {"prompt": "asked"},
    "judged": {"answer": "said", "label": "right"},
}


def test_each_right_answer_is_paired_with_a_wrong_one_to_the_same_prompt(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ANSWERS)
    drawn = set()
    for seed in range(20):
        rows = read(source, tmp_path, seed=seed, **JUDGED)
        assert [(row["prompt"], row["chosen"]) for row in rows] == [
            ([user("1+1?")], "2"),
            ([user("1+1?")], "two"),
        ]
        drawn |= {row["rejected"] for row in rows}
        assert rows == read(source, tmp_path, seed=seed, **JUDGED)
    assert drawn == {"3", "eleven"}
    check(tmp_path, "dpo")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["left_out"] == {"a right answer alone": 1}


def test_judged_answers_by_a_template_and_in_whole_conversations(tmp_path: Path) -> None:
    said = [[user("1?"), assistant(text)] for text in ("1", "2")]
    rows = [{"said": one, "right": n == 0, "asked": "not read"} for n, one in enumerate(said)]
    source = write(tmp_path / "rows.jsonl", rows)
    pair = {"prompt": [user("1?")], "chosen": "1", "rejected": "2"}
    assert read(source, tmp_path, **JUDGED) == [pair]
    source = write(tmp_path / "rows.jsonl", ANSWERS[:2])
    settings = {**JUDGED, "columns": {}, "template": "Say: {asked}"}
    assert read(source, tmp_path, **settings) == [
        {"prompt": [user("Say: 1+1?")], "chosen": "2", "rejected": "3"}
    ]


@pytest.mark.parametrize(
    ("rows", "changed", "words"),
    [
        (ANSWERS[2:3], {}, "no prompt has both a right and a wrong answer"),
        ([{**ANSWERS[0], "right": 2}], {}, "a label that is neither right (1, true) nor wrong"),
        (ANSWERS, {"judged": {"answer": "said", "label": "good"}}, "no column 'good'"),
        (ANSWERS, {"columns": {"chosen": "said"}}, "judged and columns.chosen exclude each other"),
        (ANSWERS, {"gives": "conversations", "columns": {}}, "judged: only preferences are paired"),
    ],
)
def test_what_cannot_be_paired_is_named(
    tmp_path: Path, rows: list[Row], changed: Row, words: str
) -> None:
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as refused:
        read(source, tmp_path, **JUDGED | changed)
    assert words in str(refused.value)


LEVELS = [
    {"prompt": str(n), "truth": n, "level": n % 4, "hard": n % 2 == 0, "of": "ab"[n % 2]}
    for n in range(20)
]


def taken(folder: Path, suffix: str = ".jsonl", **settings: Any) -> list[int]:
    source = write(folder / f"levels{suffix}", LEVELS)
    rows = read(source, folder, gives="problems", **settings)
    return [int(row["reward_model"]["ground_truth"]) for row in rows]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_chosen_by_value_and_number(tmp_path: Path, suffix: str) -> None:
    assert taken(tmp_path, suffix, where={"level": 3}) == [3, 7, 11, 15, 19]
    assert taken(tmp_path, suffix, where={"level": [1, 3], "of": "b"}, rows=3) == [1, 3, 5]
    assert taken(tmp_path, suffix, where={"hard": True}, rows=2) == [0, 2]


def test_shuffled_rows_are_drawn_from_the_seed_before_they_are_counted(tmp_path: Path) -> None:
    one, again = (taken(tmp_path, shuffle=True, seed=1) for _ in range(2))
    other = taken(tmp_path, shuffle=True, seed=2)
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other) == list(range(20))
    assert taken(tmp_path, shuffle=True, seed=1, rows=5) == one[:5]


def test_files_of_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    for number, name in enumerate(["b", "a", "c"]):
        write(tmp_path / f"train-{name}.jsonl", [{"prompt": name, "truth": number}])
    write(tmp_path / "test-a.jsonl", [{"prompt": "x", "truth": 9}])
    rows = read(str(tmp_path / "train-*.jsonl"), tmp_path, gives="problems")
    assert [row["prompt"][0]["content"] for row in rows] == ["a", "b", "c"]


PAIR: Row = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
BAD = [
    ({"chosen": "2", "rejected": "3"}, "no prompt"),
    ({"prompt": "", "chosen": "2", "rejected": "3"}, "no prompt"),
    ({"prompt": "1+1?", "rejected": "3"}, "no answer"),
    ({"prompt": "1+1?", "chosen": "2", "rejected": "2"}, "one answer twice"),
    ({"prompt": "1+1?", "chosen": 2, "rejected": "3"}, "what is neither text nor messages"),
    ({"prompt": "1+1?", "chosen": [{"role": "assistant"}], "rejected": "3"}, "an empty message"),
    ({"prompt": "1+1?", "chosen": [user("2")], "rejected": "3"}, "no answer"),
    (
        {"chosen": [user("1"), assistant("2")], "rejected": [user("2"), assistant("3")]},
        "answers to two prompts",
    ),
    (
        {"chosen": [{"content": "2"}], "rejected": "3"},
        "a message whose role or content is no text",
    ),
    (PAIR | {"tools": "add"}, "tools that are not JSON"),
    (PAIR | {"tools": ["add"]}, "tools that are no list of JSON schemas"),
    ("{", "a line that is not JSON"),
    ("[]", "a line that is no JSON object"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_bad_rows_are_counted_by_reason(tmp_path: Path, bad: Row | str, reason: str) -> None:
    good = [{"prompt": str(n), "chosen": "2", "rejected": "3"} for n in range(99)]
    source = tmp_path / "rows.jsonl"
    write(source, good)
    with source.open("a") as stream:
        stream.write((bad if isinstance(bad, str) else json.dumps(bad)) + "\n")
    assert len(read(str(source), tmp_path, gives="preferences")) == 99
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["left_out"] == {reason: 1}


def test_too_many_bad_rows_end_the_job_with_an_example_of_each(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "truth": "" if n < 2 else n} for n in range(100)]
    rows[50]["prompt"] = ""
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as refused:
        read(source, tmp_path, gives="problems")
    said = str(refused.value)
    assert "3 of 100 rows cannot be used, more than max_bad_share (0.01)" in said
    assert "2 with no truth, such as rows.jsonl:1 {'prompt': '0', 'truth': ''}" in said
    assert "1 with no prompt, such as rows.jsonl:51 {" in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
    assert len(read(source, tmp_path, gives="problems", max_bad_share=0.03)) == 97


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.txt", "", "allowed: .jsonl, .json, .csv, .parquet"),
        ("rows.json", '{"a": 1}\n{"a": 2}', "is called .jsonl"),
        ("rows.json", '{"a": 1}', "not a list of rows"),
        ("rows.parquet", "PAR", "not a Parquet file"),
        ("rows.csv", "prompt,prompt\n1,2\n", "two columns have one name"),
        ("rows.csv", 'prompt,truth\n"1"x,2\n', "rows.csv:2: not CSV"),
        ("rows.csv", b"prompt,truth\n\xff,2\n", "not in UTF-8"),
        ("rows.jsonl", '{"question": 1}', "no column 'prompt'; it has: question"),
        ("rows.jsonl", "", "no column 'prompt'"),
        ("rows.csv", "prompt,truth\n", "not one row to train on (none that match where)"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refused:
        read(str(tmp_path / name), tmp_path, gives="problems")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).count(name) == 1


def test_a_folder_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name a file in it, or several by a pattern"):
        read(str(tmp_path), tmp_path, gives="problems")
    with pytest.raises(UserError, match="no such file"):
        read(str(tmp_path / "*.csv"), tmp_path, gives="problems")


def test_a_long_cell_of_csv_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", [{"prompt": "1" * 200_000, "truth": "007"}])
    (row,) = read(source, tmp_path, gives="problems")
    assert len(row["prompt"][0]["content"]) == 200_000
    assert row["reward_model"]["ground_truth"] == "007"


GSM = [
    {"question": "How many are 48 and 24?", "answer": "48+24 = <<48+24=72>>72\n#### 72"},
    {"question": "What are $1,000 and $200?", "answer": "#### is the mark.\n#### 1,200"},
]
MATH = [
    {"problem": "Halve 1.", "solution": "Of \\boxed{2} it is \\boxed{\\frac{1}{2}}."},
    {"problem": "Add 1 to 1.", "solution": "It is $\\boxed{2}$."},
]


def truths(rows: list[Row]) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in rows]


def test_prompts_by_a_template_and_the_truth_behind_a_mark(tmp_path: Path) -> None:
    rows = read(
        write(tmp_path / "gsm.jsonl", GSM),
        tmp_path,
        gives="problems",
        system="Be brief.",
        template="{question} Answer in \\boxed{}, {{so}}.",
        answer={"column": "answer", "after": "####"},
    )
    assert truths(rows) == ["72", "1,200"]
    assert rows[0]["prompt"] == [
        {"role": "system", "content": "Be brief."},
        user("How many are 48 and 24? Answer in \\boxed{}, {so}."),
    ]
    check(tmp_path, "grpo")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"boxed": True}, ["\\frac{1}{2}", "2"]),
        ({"pattern": r"\d"}, ["2", "2"]),
        ({"pattern": r"(?:Of|It) (\S+)"}, ["\\boxed{2}", "is"]),
        ({"after": " is "}, ["\\boxed{\\frac{1}{2}}.", "$\\boxed{2}$."]),
        ({}, [row["solution"] for row in MATH]),
    ],
)
def test_the_truth_within_a_solution(tmp_path: Path, answer: Row, found: list[str]) -> None:
    settings = {"template": "{problem}", "answer": {"column": "solution", **answer}}
    source = write(tmp_path / "math.jsonl", MATH)
    assert truths(read(source, tmp_path, gives="problems", **settings)) == found


def test_templates_ask_for_conversations_and_pairs_too(tmp_path: Path) -> None:
    source = write(tmp_path / "gsm.jsonl", GSM)
    settings: Row = {"system": "Be brief.", "template": "Q: {question}"}
    columns = {"completion": "answer"}
    rows = read(source, tmp_path, gives="conversations", columns=columns, **settings)
    asked = [{"role": "system", "content": "Be brief."}, user(f"Q: {GSM[0]['question']}")]
    assert rows[0] == {"messages": [*asked, assistant(GSM[0]["answer"])]}
    columns = {"chosen": "answer", "rejected": "question"}
    rows = read(source, tmp_path, gives="preferences", columns=columns, **settings)
    answers = {"chosen": GSM[0]["answer"], "rejected": GSM[0]["question"]}
    assert rows[0] == {"prompt": asked, **answers}


@pytest.mark.parametrize(
    ("row", "answer", "reason"),
    [
        ({"question": ""}, {}, "nothing in the column 'question'"),
        ({"question": ["a"]}, {}, "neither text nor a number in the column 'question'"),
        ({"answer": "no mark"}, {}, "no '####' in the column 'answer'"),
        ({"answer": "####"}, {}, "no truth"),
        ({"answer": None}, {}, "no truth"),
        ({"answer": "1"}, {"pattern": "x"}, "no match of 'x' in the column 'answer'"),
        ({"answer": "\\boxed{1"}, {"boxed": True}, "no \\boxed{…} in the column 'answer'"),
    ],
)
def test_rows_without_what_the_settings_name(
    tmp_path: Path, row: Row, answer: Row, reason: str
) -> None:
    good = {"question": "1+1?", "answer": "\\boxed{2} x #### 2"}
    source = write(tmp_path / "rows.jsonl", [good, {**good, **row}])
    answer = {"column": "answer", **(answer or {"after": "####"})}
    settings: Row = {"template": "{question}", "answer": answer, "max_bad_share": 0.5}
    assert len(read(source, tmp_path, gives="problems", **settings)) == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["left_out"] == {reason: 1}


def test_a_prompt_or_system_message_twice_is_not_chosen_from(tmp_path: Path) -> None:
    whole = {"q": "1+1?", "chosen": [*ASKED, assistant("2")], "rejected": [*ASKED, assistant("3")]}
    source = write(tmp_path / "rows.jsonl", [whole])
    with pytest.raises(UserError, match="1 with a prompt of its own beside template"):
        read(source, tmp_path, gives="preferences", template="{q}")
    with pytest.raises(UserError, match="1 with a system message of its own beside system"):
        read(source, tmp_path, gives="preferences", system="Be kind.")


def test_no_prompt_of_validation_is_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": str(n % 40), "truth": n} for n in range(60)]
    source = write(tmp_path / "rows.jsonl", rows)
    settings: Row = {"gives": "problems", "validation": 10}
    train = read(source, tmp_path, **settings)
    held = read(source, tmp_path, split="validation", **settings)
    assert len(held) == 10
    asked, trained = ({row["prompt"][0]["content"] for row in split} for split in (held, train))
    assert not asked & trained
    assert [row["extra_info"]["index"] for row in train] == list(range(len(train)))
    assert {row["extra_info"]["split"] for row in held} == {"validation"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    again = manifest["settings"]["left_out"]["a prompt of validation"]
    assert len(train) + len(held) + again == 60
    assert truths(read(source, tmp_path, split="validation", **settings)) == truths(held)
    assert truths(read(source, tmp_path, **settings, seed=4)) != truths(train)
    with pytest.raises(UserError, match="leaves none of 60 rows to train on"):
        read(source, tmp_path, gives="problems", validation=60)


REAL = Path(__file__).parents[3] / "../shared/data"


@pytest.mark.skipif(not (REAL / "gsm8k").exists(), reason="needs GSM8K and MATH500")
def test_every_row_of_gsm8k_and_math500_has_its_truth(tmp_path: Path) -> None:
    settings: Row = {"gives": "problems", "template": "{question}", "max_bad_share": 0.0}
    settings["answer"] = {"column": "answer", "after": "####"}
    gsm = read(str(REAL / "gsm8k" / "train.jsonl"), tmp_path, **settings)
    assert len(gsm) == 7473
    assert all(re.fullmatch(r"-?[\d,.]+", truth) for truth in truths(gsm))
    settings |= {"template": "{problem}", "answer": {"column": "solution", "boxed": True}}
    source = REAL / "math500" / "test.jsonl"
    math = read(str(source), tmp_path, **settings)
    answers = [json.loads(line)["answer"] for line in source.read_text().splitlines()]
    assert truths(math) == answers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gives": "problems", "where": {"a": []}}, "expected a value or a list of values"),
        ({"gives": "problems", "max_bad_share": 2}, r"must lie in \[0, 1\]"),
        ({"gives": "problems", "template": "Answer in \\boxed{}."}, "names no column, such as"),
        ({"gives": "problems", "template": "{a}", "columns": {"prompt": "b"}}, "exclude each"),
        ({"gives": "problems", "answer": {"after": "#"}}, "answer: missing key 'column'"),
        (
            {"gives": "problems", "answer": {"column": "a", "after": "#", "boxed": True}},
            "answer: needs at most one of: after | boxed | pattern",
        ),
        ({"gives": "problems", "answer": {"column": "a", "pattern": "("}}, "no regular expression"),
        ({"gives": "problems", "answer": {"column": "a", "pattern": "(.)(.)"}}, "has 2 groups"),
        ({"gives": "preferences", "answer": {"column": "a"}}, "only problems have a truth"),
        ({"gives": "problems", "rows": 5, "validation": 5}, r"must be below rows \(5\)"),
        ({"gives": "problems", "files": "*"}, "unknown key 'files'"),
        ({"gives": "conversations", "columns": {"truth": "x"}}, "messages, prompt, completion"),
    ],
)
def test_wrong_settings_are_named(values: Row, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(LocalSettings, values, "settings")
