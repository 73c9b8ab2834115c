"""YAML is read as people write it, and what cannot be meant is refused with its line."""

from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("pydantic")

from subnetworks.core.errors import UserError
from subnetworks.experiment import reading


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.yaml"


def test_keys_of_ones_own_win_over_what_is_merged_in(file: Path) -> None:
    file.write_text(
        "first: &first { a: 1 }\n"
        "second: &second { a: 2, b: 3 }\n"
        "one: { c: 4, <<: *second, a: 5 }\n"
        "both: { <<: [*first, *second] }\n"
    )
    value = reading.read(file).value
    assert value["one"] == {"a": 5, "b": 3, "c": 4}
    assert value["both"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: \x01c", ":2: not valid YAML: the character U+0001: remove it"),
        ("a: 1\nb: [", ":2: not valid YAML: "),
        ("a: &a\n  - *a", ":1: a.0: holds itself, through an alias of YAML"),
        ("? [1]\n: 2", ":1: a key is a list or a mapping; expected a name"),
        ("a: 1\nb: 2026-02-30", ":2: b: 2026-02-30: day is out of range for month"),
        ("a: { <<: 3 }", ":1: a: <<: expected keys and values, got 3"),
        ("a: -.INF", ":1: a: -.INF is not a finite number"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        reading.read(file)
    message = str(caught.value)
    assert message.startswith(f"{file}{words}")
    assert "\n" not in message
