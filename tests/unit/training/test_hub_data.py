"""Data sets from a stand-in for the Hub on the loopback interface, with the real client."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet
from loopback_hub import Hub

from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import checks as data
from subnetworks.training.data.sources import HubSettings
from subnetworks.training.settings import parse_settings


def said(role, content):
    return {"role": role, "content": content}


def pair(number, chosen="right", rejected="wrong"):
    asked = [said("user", f"question {number}")]
    return {
        "id": str(number),
        "source": "flan" if number % 2 else "wildchat",
        "prompt": f"question {number}",
        "chosen": [*asked, said("assistant", chosen)],
        "rejected": [*asked, said("assistant", rejected)],
    }


PAIRS = [pair(number) for number in range(6)]
PROBLEMS = [
    {
        "data_source": "numina",
        "prompt": [said("system", "Box it."), said("user", f"{number}+1?")],
        "ability": "code" if number == 2 else "math",
        "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
    }
    for number in range(4)
]
GSM = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": ""}]


def parquet(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def hub():
    last = [PAIRS[4], pair(7, rejected="right"), PAIRS[5]]
    pairs = {
        "data/train-00000-of-00002.parquet": PAIRS[:4],
        "data/train-00001-of-00002.parquet": last,
        "data/test-00000-of-00001.parquet": [pair(99)],
    }
    with Hub() as server:
        server.commit("owner/pairs", {name: parquet(rows) for name, rows in pairs.items()})
        server.commit("owner/problems", {"train.parquet": parquet(PROBLEMS)})
        server.commit("owner/gsm", {"main/train-00000-of-00001.parquet": parquet(GSM)})
        yield server


def fetch(hub, source, folder, **settings):
    return subprocess.run(
        [
            *(sys.executable, "-m", "subnetworks", "fetch-data", source),
            *("--output", folder / "out", "--cache", folder / "cache"),
            *("--lock", folder / "x.lock", "--settings", json.dumps(settings)),
        ],
        env=hub.environment(folder / "home"),
        capture_output=True,
        text=True,
    )


def rows(folder):
    return pyarrow.parquet.read_table(folder / "out" / "train.parquet").to_pylist()


def check(folder, algorithm):
    settings = {"algorithm": algorithm, "steps": 1, "batch_size": 2, "learning_rate": 1}
    data.check(folder / "out", parse_settings(settings))


def test_whole_conversations_become_pairs(hub, tmp_path):
    done = fetch(hub, "hub:owner/pairs@main", tmp_path, gives="preferences")
    assert done.returncode == 0, done.stderr
    assert "6 rows; left out 1 with one answer twice" in done.stdout
    asked = [said("user", "question 4")]
    assert rows(tmp_path)[4] == {"prompt": asked, "chosen": "right", "rejected": "wrong"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["revision"] == hub.main["owner/pairs"]
    assert manifest["settings"]["left_out"] == {"one answer twice": 1}
    assert not any("test-0" in path for _, path, _ in hub.requests)
    check(tmp_path, "dpo")
    check(tmp_path, "kto")
    lock = json.loads((tmp_path / "x.lock").read_text())
    (entry,) = lock["sources"].values()
    assert list(entry["files"]) == [f"data/train-0000{i}-of-00002.parquet" for i in (0, 1)]
    asked = len(hub.requests)
    assert fetch(hub, "hub:owner/pairs@main", tmp_path, gives="preferences").returncode == 0
    assert len(hub.requests) == asked


def test_problems_in_verls_schema_are_taken_by_their_ability(hub, tmp_path):
    where = {"ability": "math"}
    done = fetch(hub, "hub:owner/problems@main", tmp_path, gives="problems", where=where)
    assert done.returncode == 0, done.stderr
    assert [row["reward_model"]["ground_truth"] for row in rows(tmp_path)] == ["1", "2", "4"]
    assert rows(tmp_path)[0]["prompt"] == PROBLEMS[0]["prompt"]
    check(tmp_path, "grpo")


def test_columns_of_other_names_and_a_row_without_a_truth(hub, tmp_path):
    columns = {"prompt": "question", "truth": "answer"}
    done = fetch(hub, "hub:owner/gsm@main", tmp_path, gives="problems", columns=columns)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert row["prompt"] == [said("user", "1+1?")]
    assert row["reward_model"]["ground_truth"] == "2"


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def grown(hub):
    """A data set of two configurations, and one of other formats."""
    more = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(4)]
    files = {
        "main/train-00000-of-00001.parquet": parquet(more[:2]),
        "main/test-00000-of-00001.parquet": parquet(more[2:]),
        "main/pretrain-00000-of-00001.parquet": parquet(GSM),
        "socratic/train-00000-of-00001.parquet": parquet(more[3:]),
        "README.md": b"#",
    }
    hub.commit("owner/configured", files)
    csv = b"question,answer\n9+1?,#### 10\n"
    hub.commit("owner/formats", {"train.jsonl": lines(more), "val.csv": csv, "train.csv": csv})
    return hub


ASKED = {"gives": "problems", "template": "{question}"}
ASKED["answer"] = {"column": "answer", "after": "####"}


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("configured", {"configuration": "main"}, ["1", "2"]),
        ("configured", {"configuration": "main", "split": "test"}, ["3", "4"]),
        ("configured", {"split": "test"}, ["3", "4"]),
        ("configured", {"configuration": "socratic"}, ["4"]),
        ("configured", {"files": "*/t*.parquet"}, ["3", "4", "1", "2", "4"]),
        ("formats", {"files": "*.jsonl"}, ["1", "2", "3", "4"]),
        ("formats", {"split": "val"}, ["10"]),
    ],
)
def test_configurations_splits_and_formats(grown, tmp_path, name, settings, found):
    done = fetch(grown, f"hub:owner/{name}@main", tmp_path, **ASKED, **settings)
    assert done.returncode == 0, done.stderr
    assert [row["reward_model"]["ground_truth"] for row in rows(tmp_path)] == found


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("configured", {"split": "train"}, "several folders (main, socratic); name one by config"),
        ("configured", {}, "several folders (main, socratic); name one by configuration"),
        ("configured", {"configuration": "other"}, "no file in it matches 'other/train[-_./]*'"),
        ("configured", {"files": "*.md"}, "matches '*.md'; there are: README.md"),
        ("formats", {"split": "train"}, "several formats (.csv, .jsonl); name one by files"),
        ("formats", {"files": "x", "split": "train"}, "files excludes configuration and split"),
        ("formats", {"split": "*"}, "split: expected a name, or a path of names, got '*'"),
    ],
)
def test_what_may_be_the_rows_of_several_is_refused(grown, tmp_path, name, settings, words):
    done = fetch(grown, f"hub:owner/{name}@main", tmp_path, **ASKED, **settings)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        ("hub:owner/none@main", {"gives": "problems"}, "no such repository"),
        ("hub:owner/gsm@main", {"gives": "problems"}, "no column 'prompt'; it has: question"),
        (
            "hub:owner/pairs@main",
            {"gives": "preferences", "files": "*.csv"},
            "no file in it matches '*.csv'",
        ),
        (
            "hub:owner/problems@main",
            {"gives": "problems", "where": {"ability": "art"}},
            "not one row",
        ),
    ],
)
def test_what_is_not_there_is_said_in_one_line(hub, tmp_path, source, settings, words):
    done = fetch(hub, source, tmp_path, **settings)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "missing key 'gives'"),
        ({"gives": "songs"}, "allowed: conversations, problems, preferences"),
        ({"gives": "problems", "columns": {"chosen": "x"}}, "allowed: prompt, truth"),
        ({"gives": "problems", "columns": "x"}, "expected keys and values"),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(UserError, match=words):
        parse(HubSettings, values, "settings")
