"""Files of `torch.save`, compared with what torch itself loads from them; damaged ones refused.

FUZZ_EXAMPLES=100000 tries that many changed pickles, not 400.
"""

import json
import os
import pickle
import random
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints.formats.archives import DTYPES  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))


def state(seed: int = 0) -> "dict[str, torch.Tensor]":
    """Tensors as they lie in memory in all ways."""
    torch.manual_seed(seed)
    wide = torch.randn(40, 30)
    tied = torch.randn(11, 6).bfloat16()
    return OrderedDict(
        [
            ("embed.weight", tied),
            ("lm_head.weight", tied),
            ("whole", wide.bfloat16()),
            ("transposed", wide.bfloat16().t()),
            ("columns", wide.half()[:, 3:20]),
            ("rows", wide[5:9]),
            ("every third", wide[::3, ::2]),
            ("permuted", torch.randn(3, 4, 5, 6).bfloat16().permute(2, 0, 3, 1)),
            ("expanded", torch.randn(1, 7).expand(5, 7)),
            ("overlapping", torch.arange(21.0).as_strided((6, 4), (2, 3), 1)),
            ("scalar", torch.tensor(3.5)),
            ("empty", torch.zeros(0, 4)),
            ("one", torch.randn(1, 1, 1)),
            ("parameter", torch.nn.Parameter(torch.randn(4))),
            ("within.one", wide[2]),
            *((f"a {name}", a_tensor(name)) for name in DTYPES),
        ]
    )


def a_tensor(dtype: str) -> "torch.Tensor":
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (6, 5, 8), dtype=torch.uint8)
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return bits.reshape(-1)[: 240 // 8 * 8].view(getattr(torch, dtype)).reshape(-1, 8 // size)


def bits(tensor: "torch.Tensor") -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(source: Path, expected: "dict[str, torch.Tensor]") -> None:
    with checkpoints.open(source) as checkpoint:
        assert set(checkpoint.names) == set(expected)
        for name, tensor in expected.items():
            found = checkpoint[name]
            assert found.dtype == DTYPES[str(tensor.dtype).removeprefix("torch.")], name
            assert found.shape == tuple(tensor.shape), name
            assert found.raw().tobytes() == bits(tensor), name
            for start, stop in ((0, found.n // 2), (found.n // 3, found.n)):
                piece = found.raw(start, stop).tobytes()
                assert piece == bits(tensor)[start * found.itemsize : stop * found.itemsize]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_single_file(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model" / name
    path.parent.mkdir()
    torch.save(state(), path, pickle_protocol=protocol)
    assert_same(path, load(path))
    assert_same(path.parent, state())


def test_files_with_an_index(tmp_path: Path) -> None:
    every = state()
    names = list(every)
    where = {}
    for k in range(3):
        file = f"pytorch_model-0000{k + 1}-of-00003.bin"
        part = {name: every[name] for name in names[k::3]}
        torch.save(part, tmp_path / file)
        where |= dict.fromkeys(part, file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    expected: dict[str, Any] = {}
    for file in set(where.values()):
        expected |= load(tmp_path / file)
    assert_same(tmp_path, expected)
    assert_same(index, expected)
    index.unlink()
    assert_same(tmp_path, expected)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(UserError, match=r"pytorch_model-00002-of-00003.bin: missing"):
        checkpoints.open(tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict", "module", "anything"])
def test_the_one_state_dict_of_a_trainers_file(key: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}
    torch.save({"epoch": 3, key: state(), "optimizer": optimiser, "args": None}, path)
    assert_same(path, load(path)[key])
    with checkpoints.open(path) as checkpoint:
        assert checkpoint.notes == [f"{path}: read {key!r}, the one state dict in it"]
    torch.save({key: state(), "ema": state()}, path)
    with pytest.raises(UserError, match=r"more than one that may be the state dict.*'ema'"):
        checkpoints.open(path)
    torch.save({key: state(), "weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="more than one that may be the state dict"):
        checkpoints.open(path)


def test_a_module_s_state_dict_and_what_is_no_tensor(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4)).bfloat16()
    path = tmp_path / "m.pt"
    torch.save({**module.state_dict(), "steps": 3, "complex": torch.zeros(2).cfloat()}, path)
    with checkpoints.open(path) as checkpoint:
        assert set(checkpoint.names) == set(module.state_dict())
        assert checkpoint.excluded == {
            "steps": "not a tensor (int)",
            "complex": "of a dtype that is not known (torch.complex64)",
        }
    torch.save(module.state_dict(), path)
    assert_same(path, module.state_dict())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds list"),
        (torch.zeros(3), "a single tensor"),
        ({}, "no state dict"),
        ({"epoch": 1}, "it holds 'epoch'"),
        ({"a": {"b": {"c": torch.zeros(3)}}}, "no state dict"),
        ({3: torch.zeros(3)}, "not by a string"),
        ({"w": torch.zeros(3), "x": np.float32(3)}, "numpy"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"w": torch.zeros(3, device="meta")}, "_rebuild_meta_tensor_no_storage"),
        ({"w": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"w": torch.zeros(2).cfloat().conj(), "x": torch.zeros(2)}, "conjugated"),
        ({"w": torch._neg_view(torch.ones(3))}, "negated"),
    ],
)
def test_what_is_no_state_dict_is_refused(value: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path)
    with pytest.raises(UserError, match=message) as error:
        checkpoints.open(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_older_files_and_those_with_code_are_refused(tmp_path: Path) -> None:
    old, script = tmp_path / "old.pt", tmp_path / "script.pt"
    torch.save(state(), old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"before version 1\.6; load it with torch"):
        checkpoints.open(old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(script))
    with pytest.raises(UserError, match=r"TorchScript.*state_dict"):
        checkpoints.open(script)


def test_measuring_them_is_measuring_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    from safetensors.torch import save_file

    from subnetworks.measuring.updates import measure

    results = []
    for kind in ("bin", "safetensors", "transposed"):
        for side, seed in (("before", 0), ("after", 1)):
            torch.manual_seed(7)
            tensors = {f"w{k}": torch.randn(70, 50).bfloat16() for k in range(3)}
            torch.manual_seed(seed)
            tensors = {n: t + 0.01 * torch.randn(70, 50).bfloat16() for n, t in tensors.items()}
            folder = tmp_path / kind / side
            folder.mkdir(parents=True)
            if kind == "safetensors":
                save_file(tensors, folder / "model.safetensors")
            else:
                if kind == "transposed":
                    tensors = {n: t.t().contiguous().t() for n, t in tensors.items()}
                torch.save(tensors, folder / "pytorch_model.bin")
        found = measure(tmp_path / kind / "before", tmp_path / kind / "after")
        counts = {c.pair.name: c.counts.counts.tolist() for c in found.tensors}
        results.append((counts, found.digests))
    assert results[0] == results[1] == results[2]


# --- damaged and hostile archives -----------------------------------------------------------------


def rewritten(
    path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]
) -> None:
    """The archive at `path` once more, file by file, as `change` writes each."""
    with zipfile.ZipFile(path) as old:
        contents = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for info, content in contents:
            change(new, info, content)


def same(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, content)


def deflated(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, content, zipfile.ZIP_DEFLATED)


def big_endian(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, b"big" if info.filename.endswith("byteorder") else content)


def no_pickle(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    if not info.filename.endswith("data.pkl"):
        archive.writestr(info.filename, content)


def no_storage(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    if not info.filename.endswith("data/0"):
        archive.writestr(info.filename, content)


def short_storage(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, content[:-1] if info.filename.endswith("data/0") else content)


def two_pickles(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, content)
    if info.filename.endswith("data.pkl"):
        archive.writestr("other/data.pkl", content)


def with_code(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
    archive.writestr(info.filename, content)
    if info.filename.endswith("data.pkl"):
        archive.writestr(info.filename.replace("data.pkl", "code/x.py"), "raise SystemExit")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(40), "b": torch.zeros(4)}, path)
    return path


def test_an_archive_that_was_packed_again_is_read(saved: Path) -> None:
    rewritten(saved, same)
    assert_same(saved, load(saved))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (deflated, "compressed"),
        (big_endian, "the other byte order"),
        (no_pickle, "not one that torch.save wrote"),
        (no_storage, "its storage 0 is not there"),
        (short_storage, "its storage 0 has 159 bytes, not 160"),
        (two_pickles, "not one that torch.save wrote"),
        (with_code, "TorchScript"),
    ],
)
def test_archives_that_torch_does_not_write_are_refused(
    change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None], message: str, saved: Path
) -> None:
    rewritten(saved, change)
    with pytest.raises(UserError, match=message):
        checkpoints.open(saved)


def patched(path: Path, place: int, form: str, value: object) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, place, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("field", "form", "value", "message"),
    [
        (8, "<H", 1, "encrypted"),
        (10, "<H", 8, "compressed"),
        (10, "<H", 99, "compressed"),
        (20, "<I", 7, "two sizes"),
        (24, "<I", 7, "two sizes"),
        (20, "<I", 0xFFFFFFFF, "size cannot be read"),
        (42, "<I", 0xFFFFFF00, "points outside"),
        (42, "<I", 1, "not where the directory says"),
        (28, "<H", 60_000, "directory cannot be read"),
        (46, "<B", 0x41, "another name"),
        (46, "<B", 0xFF, "cannot be read"),
        (46, "<B", 0x07, "no proper name"),
        (34, "<H", 5, "cannot be read"),
        (0, "<I", 0, "cannot be read"),
    ],
)
def test_a_directory_that_lies_is_refused(
    field: int, form: str, value: int, message: str, saved: Path
) -> None:
    rewritten(saved, same)
    place = saved.read_bytes().index(b"PK\x01\x02")
    patched(saved, place + field, form, value)
    with pytest.raises(UserError, match=message) as error:
        checkpoints.open(saved)
    assert "\n" not in str(error.value)


def test_overlapping_files_and_ends_that_lie_are_refused(saved: Path) -> None:
    rewritten(saved, same)
    whole = saved.read_bytes()
    first = whole.index(b"PK\x01\x02")
    # The second file is said to lie where the first does, under the first's name.
    second = whole.index(b"PK\x01\x02", first + 1)
    data = bytearray(whole)
    data[second:] = b"".join([whole[first:second], whole[whole.index(b"PK\x01\x02", second + 1) :]])
    saved.write_bytes(data)
    with pytest.raises(UserError, match=r"twice|end|directory"):
        checkpoints.open(saved)
    end = len(whole) - 22
    for place, form, value in (
        (end, "<I", 0), (end + 4, "<H", 1), (end + 8, "<H", 1), (end + 10, "<H", 900),
        (end + 12, "<I", 7), (end + 16, "<I", 7), (end + 16, "<I", 0xFFFFFFF0), (end + 20, "<H", 3),
    ):  # fmt: skip
        saved.write_bytes(whole)
        patched(saved, place, form, value)
        with pytest.raises(UserError, match="damaged"):
            checkpoints.open(saved)
    for size in range(0, len(whole), 97):
        saved.write_bytes(whole[:size])
        with pytest.raises(UserError):
            checkpoints.open(saved)


def test_two_files_in_one_place_are_refused(tmp_path: Path) -> None:
    """Each with a header of its own, the one within the other's content."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as inner:
        inner.writestr("archive/data/0", b"0" * 8)
    within = path.read_bytes()[: 30 + len("archive/data/0") + 8]
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("archive/data.pkl", b"\x80\x02}.")
        outer.writestr("archive/data/1", within)
        info = zipfile.ZipInfo("archive/data/0")
        info.file_size = info.compress_size = 8
        info.header_offset = outer.start_dir - len(within)
        info.CRC = 0
        outer.filelist.append(info)
        outer.NameToInfo[info.filename] = info
    with pytest.raises(UserError, match="overlaps"):
        checkpoints.open(path)


# --- changed pickles ------------------------------------------------------------------------------

SNIPPETS = [
    b"cos\nsystem\n", b"cposix\nsystem\nX\x09\0\0\0touch ran\x85R", b"cbuiltins\nexec\n",
    b"\x8c\x02os\x8c\x06system\x93", b"csubprocess\nPopen\n",
    b"ctorch.storage\n_load_from_bytes\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"R", b"b", b"\x81", b"o", b"(ios\nsystem\n",
    b"\x85R", b"\x86R", b"Q", b"(", b"t", b"]", b"}", b")", b"e", b"u", b"s", b"a", b"h\0",
    b"q\0", b"h\x05", b"j\0\0\0\0", b"\x94", b"K\0", b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"N", b"\x88", b".",
    b"\x80\x04", b"X\xff\xff\xff\xff", b"X\x02\0\0\0os", b"\x82\x01", b"2", b"0", b"1",
    b"C\x01.", b"\x95" + b"\xff" * 8,
]  # fmt: skip
NAMES = [b"os", b"sys", b"system", b"builtins", b"eval", b"torch", b"_utils", b"collections", b""]
# What code that a pickle brings along could not do without.
TELLTALE = (
    "import", "exec", "compile", "pickle.", "os.", "subprocess.", "ctypes.", "socket.", "shutil.",
    "code.", "marshal.", "sys._getframe", "object.__setattr__", "tempfile.", "urllib.",
)  # fmt: skip


class _Watch:
    """What happens in this process, while it is looked at (a hook cannot be taken off)."""

    def __init__(self) -> None:
        self.looking = False
        self.seen: list[tuple[str, object]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.looking and event.startswith((*TELLTALE, "open")):
            self.seen.append((event, arguments))

    @contextmanager
    def __call__(self) -> Iterator[list[tuple[str, object]]]:
        self.seen.clear()
        self.looking = True
        try:
            yield self.seen
        finally:
            self.looking = False


@pytest.fixture(scope="module")
def watch() -> _Watch:
    return _Watch()


def changed(whole: bytes, rng: random.Random) -> bytes:
    """A pickle with one to four changes: bits, operations, pieces, names, numbers, an end."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(7):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(SNIPPETS)
            case 3:
                piece = rng.choice(SNIPPETS)
                data[at : at + len(piece)] = piece
            case 4:
                del data[at : at + rng.choice([1, 2, 5, 20])]
            case 5:
                other = rng.randrange(len(data)) if data else 0
                data[at:at] = data[other : other + rng.choice([1, 5, 30, 200])]
            case _:
                names = [b"torch", b"_utils", b"_rebuild_tensor_v2", b"collections", b"OrderedDict"]
                data = bytearray(bytes(data).replace(rng.choice(names), rng.choice(NAMES), 1))
    return bytes(data)


def archived(path: Path, data: bytes, storages: "dict[str, bytes]") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)


@pytest.mark.parametrize("protocol", [2, 4])
def test_changed_pickles_are_refused_or_harmless_and_run_nothing(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: _Watch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = {
        "model": {
            "a": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.randn(4, 6).bfloat16().t(),
            "c": torch.zeros(3).to(torch.float8_e4m3fn), "d": torch.zeros(()),
        },
        "shape": torch.Size([3]), "device": torch.device("cpu"), "dtype": torch.int64,
        "bytes": b"123", "rest": [1, 2.5, None, True, (1, 2)],
        "module": {"x": torch.nn.Linear(2, 2).state_dict()},
    }  # fmt: skip
    torch.save(value, "whole.pt", pickle_protocol=protocol)
    with zipfile.ZipFile("whole.pt") as archive:
        contents = {i.filename.split("/", 1)[1]: archive.read(i) for i in archive.infolist()}
    storages = {name[5:]: body for name, body in contents.items() if name.startswith("data/")}
    whole = contents["data.pkl"]
    path = Path("m.pt")
    rng = random.Random(protocol)
    outcomes = {"read": 0, "refused": 0}
    lines: set[int] = set()
    longest = 0
    for _ in range(EXAMPLES // 2):
        archived(path, changed(whole, rng), storages)
        with watch() as seen:
            try:
                with checkpoints.open(path) as checkpoint:
                    for tensor in checkpoint.tensors.values():
                        if tensor.n < 10_000:
                            assert tensor.raw().size == tensor.n
                outcomes["read"] += 1
            except UserError as error:
                outcomes["refused"] += 1
                lines.add(str(error).count("\n"))
                longest = max(longest, len(str(error)))
        assert [found for found in seen if found[0] != "open"] == []
        assert {str(found[1][0]) for found in seen} <= {"m.pt"}  # type: ignore[index]
    assert sorted(p.name for p in Path().iterdir()) == ["m.pt", "whole.pt"]
    assert outcomes["refused"] > EXAMPLES / 5
    assert outcomes["read"] > EXAMPLES / 200
    assert lines == {0}
    assert longest < 500
    print(outcomes)


def test_the_watch_sees_what_a_pickle_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: _Watch
) -> None:
    monkeypatch.chdir(tmp_path)
    with watch() as seen:
        pickle.loads(b"\x80\x02cposix\nsystem\nX\x09\0\0\0touch ran\x85R.")
    assert {"pickle.find_class", "os.system"} <= {event for event, _ in seen}
    assert Path("ran").exists()
