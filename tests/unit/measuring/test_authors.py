"""The authors' method, load all and subtract, against ours on awkward layouts: equal counts."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
safetensors = pytest.importorskip("safetensors.torch")

from checkpoints_made import Stored, bf16, llama, save, save_sharded, updated  # noqa: E402

from subnetworks.measuring.masks import Mask  # noqa: E402
from subnetworks.measuring.updates import measure, summarise  # noqa: E402

Tensors = dict[str, Stored]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def theirs(before: Path, after: Path, tied: bool = False) -> dict[str, int]:
    """Load every file, cast to bfloat16, subtract, `isclose`; skip what differs in shape."""
    sides = []
    for folder in (before, after):
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(folder.rglob("*.safetensors")):
            if not file.name.startswith("consolidated"):
                tensors |= safetensors.load_file(file)
        sides.append(tensors)
    total = {"n": 0, "equal": 0, "1e-5": 0, "1e-4": 0}
    for name, first in sides[0].items():
        second = sides[1].get(name)
        buffer = name.endswith(("inv_freq", "position_ids"))
        if second is None or first.shape != second.shape or buffer or (tied and name == HEAD):
            continue
        delta = second.to(torch.bfloat16) - first.to(torch.bfloat16)
        total["n"] += delta.numel()
        total["equal"] += delta.numel() - int(torch.count_nonzero(delta))
        for tolerance in ("1e-5", "1e-4"):
            close = torch.isclose(delta, torch.zeros_like(delta), atol=float(tolerance))
            total[tolerance] += int(close.sum())
    return total


def f32(values: Tensors, rng: np.random.Generator) -> Tensors:
    """The same in float32, with digits that bfloat16 has no room for."""
    return {
        name: (
            "F32",
            (bits.astype(np.uint32) << 16) + rng.integers(0, 1 << 16, bits.shape).astype(np.uint32),
        )
        for name, (_, bits) in values.items()
    }


def single(folder: Path, t: Mapping[str, Stored]) -> None:
    save(folder / "model.safetensors", t)


def write_config(folder: Path, **settings: object) -> None:
    (folder / "config.json").write_text(json.dumps(settings))


def chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[k : k + size] for k in range(0, len(names), size)]


def single_files(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    single(a, x)
    single(b, y)


def sharded_with_index(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    save_sharded(a, x, chunks(list(x), 5))
    save_sharded(b, y, chunks(list(y), 5))


def sharded_without_index(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    save_sharded(a, x, chunks(list(x), 4), index=False)
    single(b, y)


def shards_cut_differently(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    names = list(y)
    rng.shuffle(names)
    save_sharded(a, x, chunks(list(x), 3))
    save_sharded(b, y, chunks(names, 7))


def any_order(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    names = list(y)
    rng.shuffle(names)
    single(a, x)
    single(b, {name: y[name] for name in names})


def nested_folder(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    save_sharded(a / "actor" / "huggingface", x, chunks(list(x), 6))
    single(b / "weights", y)


def several_nested_folders(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    for k, names in enumerate(chunks(list(x), 8)):
        save(a / f"part{k}" / "weights.safetensors", {name: x[name] for name in names})
    single(b, y)


def tied_head_stored(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    for folder, tensors in ((a, x), (b, y)):
        tensors[HEAD] = tensors[EMBEDDING]
        single(folder, tensors)
        write_config(folder, tie_word_embeddings=True)


def tied_head_unsaid(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    for folder, tensors in ((a, x), (b, y)):
        tensors[HEAD] = tensors[EMBEDDING]
        single(folder, tensors)


def resized_vocabulary(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    for name in (HEAD, EMBEDDING):
        y[name] = ("BF16", np.concatenate([y[name][1], y[name][1][:8]]))
    single(a, x)
    single(b, y)


def saved_in_float32(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    single(a, x)
    single(b, f32(y, rng))


def mixed_precisions(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    wide = f32(x, rng)
    single(a, {name: wide[name] if "mlp" in name else x[name] for name in x})
    single(b, y)


def layers_added_and_dropped(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    extra = {"model.layers.7.mlp.up_proj.weight": y["model.layers.0.mlp.up_proj.weight"]}
    single(a, x)
    single(b, {n: t for n, t in y.items() if "layers.1." not in n} | extra)


def buffers_and_integers(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": bf16(rng.random(12))}
    single(a, x | rotary | {"model.position_ids": ("I64", np.arange(9))})
    single(b, y | rotary | {"model.position_ids": ("I64", np.arange(9))})


def not_numbers_and_zeros(
    a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator
) -> None:
    special = np.array([0, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 1, 0x8001, 0x7F7F], np.uint16)
    for tensors in (x, y):
        for _, bits in tensors.values():
            where = rng.random(bits.shape) < 0.05
            bits[where] = rng.choice(special, int(where.sum()))
    single(a, x)
    single(b, y)


def scalars_and_empties(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    odd = {
        "scale": bf16(np.float32(0.5)),
        "none": bf16(np.zeros((0, 4))),
        "one": bf16(np.ones((1, 1, 1))),
    }
    single(a, x | odd)
    single(b, y | odd | {"scale": bf16(np.float32(0.25))})


def another_copy_beside(a: Path, b: Path, x: Tensors, y: Tensors, rng: np.random.Generator) -> None:
    for folder, tensors in ((a, x), (b, y)):
        save_sharded(folder, tensors, chunks(list(tensors), 9))
        save(folder / "consolidated.safetensors", {f"other.{n}": t for n, t in tensors.items()})


LAYOUTS: list[Callable[[Path, Path, Tensors, Tensors, np.random.Generator], None]] = [
    single_files, sharded_with_index, sharded_without_index, shards_cut_differently, any_order,
    nested_folder, several_nested_folders, tied_head_stored, tied_head_unsaid, resized_vocabulary,
    saved_in_float32, mixed_precisions, layers_added_and_dropped, buffers_and_integers,
    not_numbers_and_zeros, scalars_and_empties, another_copy_beside,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_are_the_authors(
    layout: Callable[[Path, Path, Tensors, Tensors, np.random.Generator], None],
    threads: int,
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(LAYOUTS.index(layout))
    x = llama(rng)
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    layout(before, after, x, updated(x, rng), rng)
    mask = tmp_path / "mask.safetensors"
    summary = summarise(measure(before, after, mask=mask, threads=threads, allow_partial=True))
    close = summary["isclose_bf16"]
    ours = {
        "n": summary["n"],
        "equal": summary["equal"],
        "1e-5": close["1e-5"],
        "1e-4": close["1e-4"],
    }
    expected = theirs(before, after, tied=layout.__name__.startswith("tied"))
    assert ours == expected
    assert 0 < summary["equal"] < summary["n"]
    assert summary["sparsity"] == close["1e-5"] / summary["n"]
    opened = Mask.open(mask)
    assert sum(opened.count(name) for name in opened.names) == summary["n"] - summary["equal"]
    assert int(opened.metadata["changed"]) == summary["changed"] == summary["n"] - summary["equal"]
    assert sum(row["n"] for row in summary["tensors"]) == summary["n"]
    # All that is not compared is listed: nothing is dropped silently.
    stored = set()
    for folder in (before, after):
        for file in folder.rglob("*.safetensors"):
            if not file.name.startswith("consolidated"):
                stored |= set(safetensors.load_file(file))
    listed = {entry["name"] for entry in summary["excluded"]} | set(opened.names)
    assert stored <= listed
