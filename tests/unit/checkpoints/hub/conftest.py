"""A repository on a loopback Hub, and the command line that fetches from it."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from loopback_hub import Hub

CONFIG = b'{"model_type": "llama"}'


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    """A safetensors file of tensors in bf16, straight from the format's description."""
    header: dict[str, object] = {}
    position = 0
    for name, data in tensors.items():
        offsets = [position, position + len(data)]
        header[name] = {"dtype": "BF16", "shape": [len(data) // 2], "data_offsets": offsets}
        position += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def torch_zip(pickle: bytes, storage: bytes = b"") -> bytes:
    """A file as `torch.save` writes it, of one storage."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", storage)
    return buffer.getvalue()


def bfloat16(name: str, n: int) -> bytes:
    """The pickle of a state dict of one tensor of `n` entries, as torch writes it."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    number = b"M" + struct.pack("<H", n)
    storage = b"(" + text("storage") + b"ctorch\nBFloat16Storage\n" + text("0") + text("cpu")
    tensor = b"(" + storage + number + b"tQK\x00" + number + b"\x85K\x01\x85\x89}tR"
    return b"\x80\x02}" + text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"s."


def sharded(shards: int, size: int = 1000, fill: int = 0) -> dict[str, bytes]:
    """The files of a model in shards, with what the Hub often has beside them."""
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    bodies = [safetensors({f"w{i}": bytes([i + fill]) * size}) for i in range(shards)]
    index = {"metadata": {}, "weight_map": {f"w{i}": names[i] for i in range(shards)}}
    return {
        **dict(zip(names, bodies, strict=True)),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"\x80\x04.",
        "tokenizer.pkl": b"\x80\x04.",
        "consolidated.safetensors": bodies[0],
        "original/consolidated.00.pth": b"\x80\x04.",
        "modeling_own.py": b"raise SystemExit('ran')",
        "README.md": b"# words",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def run(
    hub: Hub, folder: Path, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`subnetworks ARGUMENTS` against the loopback Hub."""
    return subprocess.run(
        [sys.executable, "-m", "subnetworks", *map(str, arguments)],
        cwd=folder,
        env={**hub.environment(folder / "home"), **variables},
        capture_output=True,
        text=True,
    )


def fetch(
    hub: Hub, folder: Path, *options: str | Path, source: str = "hub:owner/name", **variables: str
) -> subprocess.CompletedProcess[str]:
    """`subnetworks fetch` into `out`, with `cache` and the lock `x.lock`."""
    places = ("--output", "out", "--cache", "cache", "--lock", "x.lock")
    return run(hub, folder, "fetch", source, *places, *options, **variables)
