"""Files that mean harm: nothing is run, nothing outside is read, nothing is waited for."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("numpy")
hypothesis = pytest.importorskip("hypothesis")

from conftest import safetensors  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints.hub import locks  # noqa: E402
from subnetworks.checkpoints.hub.client import Content, Entry  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_a_pickle_of_any_name_is_refused_and_never_loaded(
    tmp_path: Path, name: str, kind: str
) -> None:
    mark = tmp_path / "pwned"
    body = pickle.dumps({"w": Bomb(mark)})
    path = tmp_path / "model" / name
    path.parent.mkdir()
    if kind == "pickle":
        path.write_bytes(body)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", body)
    for source in (path, path.parent):
        with pytest.raises(UserError, match=r"pickle.*can run code.*safetensors"):
            checkpoints.open(source)
    if name.endswith((".bin", ".pt")):
        with pytest.raises(UserError, match="pickle"):
            checkpoints.fetch(str(path.parent), tmp_path / "out")
    assert not mark.exists()


@pytest.mark.parametrize(
    "shard", ["../../secret", "/etc/passwd", "a/../../secret", "a\\..\\secret", "x\n", ""]
)
def test_an_index_reaches_nothing_outside(tmp_path: Path, shard: str) -> None:
    (tmp_path / "secret").write_bytes(safetensors({"w": b"12"}))
    folder = tmp_path / "a" / "model"
    folder.mkdir(parents=True)
    (folder / "x.safetensors").write_bytes(safetensors({"v": b"12"}))
    index = {"weight_map": {"w": shard, "v": "x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lies outside the folder; refused") as error:
        checkpoints.open(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="outside"):
        checkpoints.fetch(str(folder), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match="not a regular file"):
            checkpoints.open(source)
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        checkpoints.open(tmp_path / "zero.safetensors")


def test_a_link_to_something_else_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("my password is xyzzy, and this is long enough")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError) as error:
        checkpoints.open(tmp_path)
    assert "xyzzy" not in str(error.value)


ENTRY = Entry("a" * 40, {"model.safetensors": Content(5, sha256="b" * 64)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def test_a_damaged_lock_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    locks.write(path, {"model o/n@main": ENTRY})
    whole = path.read_bytes()
    refused = 0
    lines: set[int] = set()

    def read() -> None:
        nonlocal refused
        try:
            for entry in locks.read(path).values():
                assert all(".." not in name for name in entry.files)
        except UserError as error:
            refused += 1
            lines.add(str(error).count("\n"))

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        value = json.loads(whole)
        places = [value, value["sources"]]
        places += [value["sources"]["model o/n@main"]]
        places += [places[2]["files"], places[2]["files"]["model.safetensors"]]
        place = data.draw(st.sampled_from(places))
        key = data.draw(st.sampled_from(sorted(place)) | st.text(max_size=8))
        place[key] = data.draw(JSON)
        path.write_text(json.dumps(value))
        read()
        damaged = bytearray(whole)
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(damaged[: data.draw(st.integers(0, len(whole)))])
        read()

    run()
    assert refused > 300
    assert lines == {0}
