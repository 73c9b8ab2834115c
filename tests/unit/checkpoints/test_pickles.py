"""Pickles read as data: what weights need is understood, everything else is refused by its name."""

import collections
import os
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("numpy")

from subnetworks.checkpoints.formats import pickles
from subnetworks.core.errors import UserError

SENTINEL = "ran"


class Bomb:
    """What a pickle of it runs when it is opened the usual way."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple:
        return self.made


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_they_were(protocol: int) -> None:
    shared = [1]
    value = {
        "none": None, "yes": True, "no": False, "small": 3, "wide": 70_000, "minus": -5,
        "large": 1 << 80, "float": 1.5, "text": "läyer", "bytes": b"\0\xff",
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "lists": [[], [1], [1, 2]],
        "dicts": {"a": {"b": 1}}, 7: "a number", "shared": [shared, shared],
        "ordered": collections.OrderedDict([("x", 1), ("y", 2)]),
    }  # fmt: skip
    assert pickles.read(pickle.dumps(value, protocol), "x") == value


def test_a_class_that_the_caller_names_is_a_record() -> None:
    for protocol in (2, 4):
        data = pickle.dumps({"x": Bomb(Path, "somewhere"), "y": pytest.UsageError}, protocol)
        path = f"{Path.__module__}.Path"  # pathlib._local.Path in Python 3.13
        with pytest.raises(UserError, match=rf"f\.pt: .* asks for {re.escape(path)}"):
            pickles.read(data, "f.pt")
        names = [path, "pytest.UsageError"]
        found = pickles.read(data, "f.pt", records=names)
        assert isinstance(found, dict)
        assert isinstance(found["x"], pickles.Record)
        assert (found["x"].name, found["x"].arguments) == (path, ("somewhere",))
        assert isinstance(found["y"], pickles.Name)


def deep(open_: bytes, close: bytes, times: int) -> bytes:
    return b"\x80\x02" + open_ * times + b"N" + close * times + b"."


def laughs() -> bytes:
    """A list of ten of a list of ten of …: small here, huge written out."""
    body = b"]q\x00"
    for k in range(30):
        body += b"](" + b"h" + bytes([k]) + (b"h" + bytes([k])) * 9 + b"eq" + bytes([k + 1])
    return b"\x80\x02(" + body + b"t."


HOSTILE = {
    "global": (b"\x80\x02cos\nsystem\n.", "os.system"),
    "reduce": (b"\x80\x02cposix\nsystem\n" + text("touch ran") + b"\x85R.", "posix.system"),
    "builtin": (b"\x80\x02c__builtin__\neval\n" + text("1") + b"\x85R.", "__builtin__.eval"),
    "getattr": (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
    "stack_global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", "torch.os.system"),
    "dotted in": (b"\x80\x04\x8c\x05torch\x8c\x0a_utils.sys\x93.", "torch._utils.sys"),
    "no name": (b"\x80\x04K\x01K\x02\x93.", "a name that is none"),
    "long name": (b"\x80\x02c" + b"o" * 300 + b"\nsystem\n.", "damaged"),
    "inst": (b"\x80\x02(ios\nsystem\n.", "INST"),
    "obj": (b"\x80\x02(cos\nsystem\no.", "os.system"),
    "obj of a known one": (b"\x80\x02(ctorch\nSize\no.", "OBJ"),
    "newobj": (b"\x80\x02ctorch\nSize\n)\x81.", "torch.Size"),
    "newobj_ex": (b"\x80\x04ctorch\nSize\n)}\x92.", "NEWOBJ_EX"),
    "build": (b"\x80\x02}}b.", "sets the state"),
    "build of a list": (b"\x80\x02]}b.", "sets the state"),
    "build of a function": (b"\x80\x02ctorch\nSize\n}b.", "sets the state"),
    "ext1": (b"\x80\x02\x82\x01.", "EXT1"),
    "ext2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "ext4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "persid": (b"\x80\x02Pos.system\n.", "PERSID"),
    "binpersid": (b"\x80\x02K\x01Q.", "something else than numbers"),
    "nested": (
        b"\x80\x02ctorch.storage\n_load_from_bytes\n" + b"C\x01.\x85R.",
        "torch.storage._load_from_bytes",
    ),
    "a second protocol": (b"\x80\x02N\x80\x02.", "protocol"),
    "protocol 0": (b"(dp0\nS'x'\nI1\ns.", "PUT"),
    "after the end": (b"\x80\x02N.N.", "before or after its end"),
    "no end": (b"\x80\x02N", "damaged"),
    "empty": (b"", "damaged"),
    "two values": (b"\x80\x02NN.", "before or after its end"),
    "an open mark": (b"\x80\x02N(N.", "before or after its end"),
    "no mark": (b"\x80\x02N1t.", "POP_MARK"),
    "no mark below": (b"\x80\x02Nt.", "damaged"),
    "nothing below": (b"\x80\x02\x85.", "damaged"),
    "no such memo": (b"\x80\x02h\x07.", "damaged"),
    "memo of nothing": (b"\x80\x02q\x07.", "damaged"),
    "a far memo": (b"\x80\x02Nr\xff\xff\xff\xff0N.", "POP"),
    "dup": (b"\x80\x02N2.", "DUP"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "holds itself"),
    "a dict in itself": (b"\x80\x02}q\x00K\x01h\x00s.", "holds itself"),
    "a tuple in its list": (b"\x80\x02]q\x00h\x00\x85a.", "holds itself"),
    "deep tuples": (deep(b"", b"\x85", 500), "deeper"),
    "very deep tuples": (deep(b"", b"\x85", 500_000), "deeper"),
    "deep marks": (deep(b"(", b"t", 500), "deeper"),
    "very deep marks": (deep(b"(", b"t", 500_000), "nested too deeply"),
    "laughs": (laughs(), "more than it holds"),
    "a long string": (b"\x80\x02X\xff\xff\xff\xffabc.", "cut short"),
    "a longer string": (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "cut short"),
    "long bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "cut short"),
    "bytearray": (b"\x80\x05\x96" + bytes(8) + b".", "BYTEARRAY8"),
    "a frame beyond": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "cut short"),
    "a long number": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "LONG4"),
    "next buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a set": (b"\x80\x04\x8f.", "EMPTY_SET"),
    "keys of deep tuples": (b"\x80\x02}" + deep(b"", b"\x85", 9)[2:-1] + b"Ns.", "keys"),
    "a list as a key": (b"\x80\x02}]Ns.", "keys"),
    "a key twice": (b"\x80\x02}(K\x01NK\x01Nu.", "twice"),
    "half an item": (b"\x80\x02}(K\x01u.", "damaged"),
    "appended to a tuple": (b"\x80\x02)Na.", "no list"),
    "an item of a list": (b"\x80\x02]K\x01Ns.", "no dict"),
    "called with no tuple": (b"\x80\x02ctorch\nSize\n]R.", "no name"),
    "a called number": (b"\x80\x02K\x01)R.", "no name"),
    "a called dtype": (b"\x80\x02ctorch\nfloat32\n)R.", "torch.float32"),
    "wrong arguments": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "damaged"),
    "a dict of no pairs": (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "no pairs"),
    "an unknown codec": (
        b"\x80\x02c_codecs\nencode\n" + text("x") + text("rot13") + b"\x86R.",
        "bytes that are none",
    ),
    "text that is none": (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged"),
    "an unknown operation": (b"\x80\x02\xfe.", "0xfe"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("ran"))
    data, message = HOSTILE[name]
    with pytest.raises(UserError) as error:
        pickles.read(data, "f.pt")
    assert message in str(error.value)
    assert str(error.value).startswith("f.pt: ")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_usual_reader_would_have_run_them(tmp_path: Path) -> None:
    mark = tmp_path / SENTINEL
    data = pickle.dumps({"w": Bomb(Path.touch, mark)})
    with pytest.raises(UserError, match=r"getattr|Path"):
        pickles.read(data, "f.pt")
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()


def test_all_operations_are_either_read_or_refused_by_name() -> None:
    for operation in pickletools.opcodes:
        with pytest.raises(UserError) as error:
            pickles.read(b"\x80\x02" + operation.code.encode("latin1"), "f.pt")
        known = ord(operation.code) in pickles._OPERATIONS or operation.name == "STOP"
        assert known or operation.name in str(error.value)


def test_what_it_may_call_is_its_own() -> None:
    assert {function.__module__ for function in pickles._FUNCTIONS.values()} == {pickles.__name__}


def test_size_and_number_of_operations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "OPERATIONS", 100)
    with pytest.raises(UserError, match="more than 100 operations"):
        pickles.read(b"\x80\x02" + b"N" * 200 + b".", "f.pt")
    monkeypatch.setattr(pickles, "SIZE", 50)
    with pytest.raises(UserError, match="more than weights need"):
        pickles.read(b"\x80\x02" + b"N" * 200 + b".", "f.pt")
