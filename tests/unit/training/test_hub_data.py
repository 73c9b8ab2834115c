"""Data sets from a stand-in for the Hub on the loopback interface, with the real client."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet

import subnetworks
from subnetworks.errors import UserError
from subnetworks.training import data
from subnetworks.training.hub_data import HubSettings
from subnetworks.training.settings import parse, parse_settings

STANDIN = Path(__file__).parents[3] / "../shared/prototypes/hub/hub_standin.py"


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


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def hub(tmp_path):
    if not STANDIN.exists():
        pytest.skip("no stand-in for the Hub here")
    specification = importlib.util.spec_from_file_location("hub_standin", STANDIN)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    class DatasetHub(module.Hub):
        """The stand-in knows models; a data set's addresses differ by a word."""

        def handle(self, handler, body):
            handler.path = handler.path.replace("/api/datasets/", "/api/models/", 1)
            handler.path = handler.path.replace("/datasets/", "/", 1)
            super().handle(handler, body)

    owner = tmp_path / "hub" / "owner"
    write(owner / "pairs" / "data" / "train-00000-of-00002.parquet", PAIRS[:4])
    last = [PAIRS[4], pair(7, rejected="right"), PAIRS[5]]
    write(owner / "pairs" / "data" / "train-00001-of-00002.parquet", last)
    write(owner / "pairs" / "data" / "test-00000-of-00001.parquet", [pair(99)])
    write(owner / "problems" / "train.parquet", PROBLEMS)
    write(owner / "gsm" / "main" / "train-00000-of-00001.parquet", GSM)
    server = DatasetHub(tmp_path / "hub")
    yield server, server.start()
    server.stop()


def fetch(address, source, folder, **settings):
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "home"),
        "PYTHONPATH": str(Path(subnetworks.__file__).parents[1]),
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "subnetworks", "fetch-data", source),
            *("--output", folder / "out", "--cache", folder / "cache"),
            *("--settings", json.dumps(settings)),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )


def rows(folder):
    return pyarrow.parquet.read_table(folder / "out" / "train.parquet").to_pylist()


def check(folder, algorithm):
    settings = {"algorithm": algorithm, "steps": 1, "batch_size": 2, "learning_rate": 1}
    data.check(folder / "out", parse_settings(settings))


def test_whole_conversations_become_pairs(hub, tmp_path):
    server, address = hub
    done = fetch(address, "hub:owner/pairs@main", tmp_path, gives="preferences")
    assert done.returncode == 0, done.stderr
    assert "6 rows; left out 1 with one answer twice" in done.stdout
    asked = [said("user", "question 4")]
    assert rows(tmp_path)[4] == {"prompt": asked, "chosen": "right", "rejected": "wrong"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["revision"] == server.commit("owner/pairs")
    assert manifest["settings"]["left_out"] == {"one answer twice": 1}
    assert not any("test-0" in path for _, path, _ in server.requests)
    check(tmp_path, "dpo")
    check(tmp_path, "kto")


def test_problems_in_verls_schema_are_taken_by_their_ability(hub, tmp_path):
    where = {"ability": "math"}
    done = fetch(hub[1], "hub:owner/problems@main", tmp_path, gives="problems", where=where)
    assert done.returncode == 0, done.stderr
    assert [row["reward_model"]["ground_truth"] for row in rows(tmp_path)] == ["1", "2", "4"]
    assert rows(tmp_path)[0]["prompt"] == PROBLEMS[0]["prompt"]
    check(tmp_path, "grpo")


def test_columns_of_other_names_and_a_row_without_a_truth(hub, tmp_path):
    columns = {"prompt": "question", "truth": "answer"}
    done = fetch(hub[1], "hub:owner/gsm@main", tmp_path, gives="problems", columns=columns)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert row["prompt"] == [said("user", "1+1?")]
    assert row["reward_model"]["ground_truth"] == "2"


@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        ("hub:owner/none@main", {"gives": "problems"}, "cannot be fetched"),
        ("hub:owner/gsm@main", {"gives": "problems"}, "no column 'prompt'; it has: question"),
        ("hub:owner/pairs@main", {"gives": "preferences", "files": "*.csv"}, "no Parquet file"),
        (
            "hub:owner/problems@main",
            {"gives": "problems", "where": {"ability": "art"}},
            "not one row",
        ),
    ],
)
def test_what_is_not_there_is_said_in_one_line(hub, tmp_path, source, settings, words):
    done = fetch(hub[1], source, tmp_path, **settings)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "missing key 'gives'"),
        ({"gives": "songs"}, "allowed: conversations, problems, preferences"),
        ({"gives": "problems", "columns": {"chosen": "x"}}, "allowed: prompt, truth"),
        ({"gives": "problems", "columns": "x"}, "names and texts"),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(UserError, match=words):
        parse(HubSettings, values, "settings").check()
