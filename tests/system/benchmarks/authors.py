"""The authors' method, as a peer to time: load both, subtract in bfloat16, `isclose`, count.

`python authors.py BEFORE AFTER` prints parameters and the counts as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def load(folder: str) -> dict[str, torch.Tensor]:
    """All tensors of a folder, in memory."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def main(before: str, after: str) -> None:
    """Compare."""
    first, second = load(before), load(after)
    n = zero = close = 0
    for name, tensor in first.items():
        delta = second[name] - tensor
        n += delta.numel()
        zero += delta.numel() - int(torch.count_nonzero(delta))
        close += int(torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum())
    json.dump({"n": n, "equal": zero, "1e-5": close}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
