"""A repository on a loopback Hub, and the command line that fetches from it."""

import json
import struct
import subprocess
import sys
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
