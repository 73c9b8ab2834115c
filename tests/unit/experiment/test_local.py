"""Repositories of the Hub that lie here are read from their folders."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("pydantic")

import yaml

from subnetworks.core.errors import UserError
from subnetworks.experiment import load

COMMIT = "0" * 40
SIZE = {"weights": 1e6, "layers": 2, "width": 8, "vocabulary": 32}
RUN = {"algorithm": "grpo", "init": "model", "data": "problems", "steps": 1, "learning_rate": 1e-6}
EXPERIMENT: dict[str, Any] = {
    "checkpoints": {
        "model": {"hub": "org/model", "folder": "inner", "size": SIZE},
        "other": {"hub": "org/other"},
    },
    "datasets": {
        "problems": {
            "hub": "openai/gsm8k",
            "configuration": "main",
            "split": "train",
            "gives": "problems",
            "template": "{question}",
            "answer": {"column": "answer", "after": "####"},
        }
    },
    "runs": {"grpo": RUN},
    "benchmarks": {
        "gsm8k": {"task": "gsm8k", "revision": COMMIT, "shots": 0},
        "math500": {"task": "math500", "revision": COMMIT},
    },
    "evaluation": {"grpo": {"benchmarks": ["gsm8k", "math500"]}},
}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "some.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT))
    return file


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    main = tmp_path / "gsm8k" / "main"
    main.mkdir(parents=True)
    for split in ("train", "test"):
        (main / f"{split}.jsonl").write_text('{"question": "1+1", "answer": "#### 2"}\n')
    return main.parent


def test_what_lies_here_is_read_from_its_folder(
    experiment: Path, gsm8k: Path, tmp_path: Path
) -> None:
    (tmp_path / "model" / "inner").mkdir(parents=True)
    here = {"org/model": str(tmp_path / "model"), "openai/gsm8k": str(gsm8k)}
    found = load(experiment, here)
    assert found.checkpoints == {
        "model": {"path": str(tmp_path / "model" / "inner")},
        "other": {"hub": "org/other"},
    }
    problems = found.datasets["problems"]
    assert problems["path"] == str(gsm8k / "main" / "train.jsonl")
    assert problems["max_bad_share"] == 1  # as for what is fetched
    assert not {"hub", "configuration", "split"} & problems.keys()
    assert found.benchmarks["gsm8k"] == {
        "task": "gsm8k",
        "data": str(gsm8k / "main"),
        "shots": 0,
    }
    assert found.benchmarks["math500"]["revision"] == COMMIT
    assert list(found.hub_sources()) == ["checkpoints.other"]
    assert load(experiment).checkpoints["model"]["hub"] == "org/model"


def test_several_files_of_one_split_are_a_pattern(experiment: Path, gsm8k: Path) -> None:
    shards = gsm8k / "main"
    for file in shards.glob("*"):
        file.unlink()
    for number in (0, 1):
        (shards / f"train-{number}.jsonl").write_text("{}\n")
    (shards / "test.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"2 files match 'main/train.*narrower pattern"):
        load(experiment, {"openai/gsm8k": str(gsm8k)})
    (gsm8k / "test.jsonl").write_bytes((shards / "test.jsonl").read_bytes())
    (shards / "test.jsonl").unlink()
    found = load(experiment, {"openai/gsm8k": str(gsm8k)})
    assert found.datasets["problems"]["path"] == f"{shards}/*.jsonl"


def test_what_is_not_there_is_named(experiment: Path, gsm8k: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"local: org/model: .*/nowhere: no such folder"):
        load(experiment, {"org/model": str(tmp_path / "nowhere")})
    (gsm8k / "main" / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"local: openai/gsm8k: .* has no test.jsonl; gsm8k needs"):
        load(experiment, {"openai/gsm8k": str(gsm8k)})
    (gsm8k / "main" / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"no file in it matches 'main/train"):
        load(experiment, {"openai/gsm8k": str(gsm8k)})
