"""Mixtures of data sets: how many rows of each, which ones, and what is refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pydantic")

import pyarrow.parquet

from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.training.data import checks, local_data, mixture
from subnetworks.training.data.sources import MixtureSettings
from subnetworks.training.settings import parse_settings

Row = dict[str, Any]


def part(folder: Path, name: str, rows: int, gives: str = "problems", **settings: Any) -> Path:
    made = [{"prompt": f"{name} {n}", "truth": n, "completion": "x"} for n in range(rows)]
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in made))
    local_data.read(str(source), folder / name, {"gives": gives, **settings})
    return folder / name


def mixed(folder: Path, parts: dict[str, Path], split: str = "train", **settings: Any) -> list[str]:
    mixture.mix(parts, folder / "mixed", settings)
    table = pyarrow.parquet.read_table(folder / "mixed" / f"{split}.parquet")
    return [row["prompt"][0]["content"] for row in table.to_pylist()]


def of_each(prompts: list[str]) -> dict[str, int]:
    return dict(Counter(prompt.split()[0] for prompt in prompts))


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    return {"gsm": part(tmp_path, "gsm", 30), "math": part(tmp_path, "math", 12)}


def test_equal_weights_take_as_many_as_the_smaller_has(tmp_path: Path, parts: Any) -> None:
    prompts = mixed(tmp_path, parts, weights={"gsm": 1, "math": 1})
    assert of_each(prompts) == {"gsm": 12, "math": 12}
    assert len(set(prompts)) == 24
    assert len({prompt.split()[0] for prompt in prompts[:12]}) == 2
    settings = {"algorithm": "grpo", "steps": 1, "batch_size": 2, "learning_rate": 1}
    checks.check(tmp_path / "mixed", parse_settings(settings))
    manifest = json.loads((tmp_path / "mixed" / "manifest.json").read_text())
    assert manifest["settings"]["taken"] == {"gsm": 12, "math": 12}


def test_rows_are_drawn_from_the_seed_whatever_the_order_of_keys(
    tmp_path: Path, parts: Any
) -> None:
    one = mixed(tmp_path, parts, weights={"gsm": 3, "math": 1}, rows=20)
    assert of_each(one) == {"gsm": 15, "math": 5}
    assert mixed(tmp_path, parts, weights={"math": 1, "gsm": 3}, rows=20) == one
    turned = dict(reversed(parts.items()))
    assert mixed(tmp_path, turned, weights={"math": 1, "gsm": 3}, rows=20) == one
    assert mixed(tmp_path, parts, weights={"gsm": 3, "math": 1}, rows=20, seed=1) != one


@pytest.mark.parametrize(
    ("there", "weights", "rows", "taken"),
    [
        ((10, 10), (1, 1), None, (10, 10)),
        ((10, 5), (1, 1), 5, (3, 2)),
        ((7473, 7500), (1, 1), None, (7473, 7473)),
        ((100, 100), (0.1, 0.2), None, (50, 100)),
        ((10, 10, 10), (1, 1, 1), 10, (4, 3, 3)),
        ((1000, 1), (999, 1), None, (999, 1)),
    ],
)
def test_shares_are_whole_and_make_up_the_sum(
    there: Any, weights: Any, rows: Any, taken: Any
) -> None:
    settings = {"weights": dict(zip("abc", weights, strict=False))}
    settings |= {"rows": rows} if rows else {}
    found = mixture.shares(
        dict(zip("abc", there, strict=False)), parse(MixtureSettings, settings, "settings")
    )
    assert tuple(found.values()) == taken


def test_validation_rows_are_put_together_and_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    parts = {
        "first": part(tmp_path, "gsm", 30, validation=4),
        "second": part(tmp_path / "other", "gsm", 30),
        "math": part(tmp_path, "math", 12, validation=2),
    }
    weights = {"first": 1, "second": 1, "math": 0.3}
    train = mixed(tmp_path, parts, weights=weights)
    held = mixed(tmp_path, parts, split="validation", weights=weights)
    assert of_each(held) == {"gsm": 4, "math": 2}
    assert not set(held) & set(train)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": {"gsm": 1, "math": 1}, "rows": 40}, "math: has 12 rows, .* lower rows to 24"),
        ({"weights": {"gsm": 999, "math": 1}}, "its weight .* asks for none of 30 rows"),
        ({"weights": {"gsm": 1, "maths": 1}}, "weights of 'gsm', 'maths', but data sets 'gsm', 'm"),
        ({"weights": {"gsm": 1}}, "needs at least 2"),
        ({"weights": {"gsm": 1, "math": 0}}, "must be above 0"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(
    tmp_path: Path, parts: Any, settings: Row, words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        mixed(tmp_path, parts, **settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "mixed").exists()


def test_conversations_are_not_mixed_with_problems(tmp_path: Path, parts: Any) -> None:
    parts["talks"] = part(tmp_path, "talks", 5, gives="conversations")
    with pytest.raises(UserError, match=r"math \(problems\), talks \(conversations\)"):
        mixed(tmp_path, parts, weights={"gsm": 1, "math": 1, "talks": 1})


def test_a_damaged_data_set_is_not_mixed(tmp_path: Path, parts: Any) -> None:
    file = parts["math"] / "train.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"math.*train\.parquet"):
        mixed(tmp_path, parts, weights={"gsm": 1, "math": 1})
