"""Masks on disk against boolean arrays in memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from subnetworks import checkpoints
from subnetworks.core.errors import UserError
from subnetworks.measuring import mask_sources, masks
from subnetworks.measuring.mask_making import Request, check
from subnetworks.measuring.mask_sources import random
from subnetworks.measuring.masks import Mask

Arrays = dict[str, np.ndarray]


def combine(operation: str, sources: list[Mask], path: Path) -> int:
    """As the command line does it."""
    module = mask_sources.load(operation)
    request = Request([str(mask.path) for mask in sources], path)
    check(operation, module.SETTINGS, request)
    changed: int = module.make(request)
    return changed


def arrays(seed: int, share: float = 0.3) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {
        "w": (37, 91),
        "v": (13,),
        "stack": (3, 5, 7),
        "scalar": (),
        "none": (0, 4),
        "long": (3_000_001,),
    }
    return {name: rng.random(shape) < share for name, shape in shapes.items()}


def write(path: Path, values: Arrays, **metadata: str) -> Mask:
    masks.write(path, values, **metadata)
    return Mask.open(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = arrays(0)
    mask = write(tmp_path / "m.safetensors", values, rule="equal", before="digest")
    assert mask.names == list(values)
    for name, expected in values.items():
        assert mask.array(name).dtype == np.bool_
        assert np.array_equal(mask.array(name), expected)
        assert mask.shape(name) == expected.shape
        assert mask.count(name) == expected.sum()
    assert mask.n == sum(value.size for value in values.values())
    total = sum(int(value.sum()) for value in values.values())
    expected_metadata = {
        "format": "subnetworks-mask-1",
        "rule": "equal",
        "before": "digest",
        "changed": str(total),
    }
    assert expected_metadata.items() <= mask.metadata.items()
    assert mask.metadata["n"] == str(mask.n)


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    values = arrays(1)
    write(tmp_path / "m.safetensors", values)
    loaded = safetensors.load_file(tmp_path / "m.safetensors")
    assert {name: array.dtype for name, array in loaded.items()} == dict.fromkeys(values, np.uint8)
    for name, value in values.items():
        assert np.array_equal(loaded[name], np.packbits(value.ravel(), bitorder="little"))


COMBINATIONS = {
    "union": lambda a, b, c: a | b | c,
    "intersection": lambda a, b, c: a & b & c,
    "difference": lambda a, b, c: a & ~b & ~c,
}


@pytest.mark.parametrize("operation", COMBINATIONS)
def test_combinations(operation: str, tmp_path: Path) -> None:
    values = [arrays(seed) for seed in range(3)]
    sources = [write(tmp_path / f"{k}.safetensors", v) for k, v in enumerate(values)]
    changed = combine(operation, sources, tmp_path / "out.safetensors")
    found = Mask.open(tmp_path / "out.safetensors")
    expected = {name: COMBINATIONS[operation](*(v[name] for v in values)) for name in values[0]}
    for name, value in expected.items():
        assert np.array_equal(found.array(name), value)
    assert changed == int(found.metadata["changed"]) == sum(int(v.sum()) for v in expected.values())
    assert json.loads(found.metadata["sources"]) == [
        "0.safetensors",
        "1.safetensors",
        "2.safetensors",
    ]


def test_complement_leaves_the_unused_bits_clear(tmp_path: Path) -> None:
    values = arrays(0)
    mask = write(tmp_path / "m.safetensors", values)
    combine("complement", [mask], tmp_path / "c.safetensors")
    found = Mask.open(tmp_path / "c.safetensors")
    for name, value in values.items():
        assert np.array_equal(found.array(name), ~value)
        bits = np.unpackbits(found.packed(name), bitorder="little")
        assert not bits[value.size :].any()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.8, 1.0])
def test_random_masks_keep_the_count_of_every_tensor(share: float, tmp_path: Path) -> None:
    values = arrays(0, share)
    mask = write(tmp_path / "m.safetensors", values)
    drawn = []
    for seed in (1, 1, 2):
        path = tmp_path / "r.safetensors"
        assert random.randomise(mask, path, seed) == sum(int(v.sum()) for v in values.values())
        found = Mask.open(path)
        drawn.append({name: found.array(name) for name in found.names})
        for name, value in values.items():
            assert found.array(name).sum() == value.sum()
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in values)
    if 0 < share < 1:
        assert not np.array_equal(drawn[0]["long"], drawn[2]["long"])
        assert not np.array_equal(drawn[0]["long"], values["long"])


def test_random_masks_are_uniform(tmp_path: Path) -> None:
    value = np.zeros(3_000_001, np.bool_)
    value[:600_000] = True  # all at the front: the copy must not be
    mask = write(tmp_path / "m.safetensors", {"w": value})
    random.randomise(mask, tmp_path / "r.safetensors", 0)
    found = Mask.open(tmp_path / "r.safetensors").array("w")
    parts = np.array([part.mean() for part in np.array_split(found, 30)])
    # Each part's share is hypergeometric around 0.2 with standard deviation 0.00124.
    assert np.abs(parts - 0.2).max() < 6 * 0.00124
    assert parts.std() > 0.00124 / 3


def test_random_in_all_keeps_the_count_in_all(tmp_path: Path) -> None:
    mask = write(
        tmp_path / "m.safetensors",
        {"a": np.ones(10_000, np.bool_), "b": np.zeros(30_000, np.bool_)},
    )
    assert random.randomise(mask, tmp_path / "r.safetensors", 0, per_tensor=False) == 10_000
    found = Mask.open(tmp_path / "r.safetensors")
    assert found.count("a") + found.count("b") == 10_000
    assert found.count("a") == pytest.approx(2500, abs=6 * 38)  # hypergeometric, σ = 37.5


def test_masks_of_different_models_do_not_combine(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", {"w": np.ones((3, 4), np.bool_)})
    second = write(tmp_path / "b.safetensors", {"w": np.ones((4, 3), np.bool_)})
    with pytest.raises(UserError, match="'w'"):
        combine("union", [first, second], tmp_path / "out.safetensors")
    for operation, sources in (("union", [first]), ("complement", [first, first])):
        with pytest.raises(UserError, match=operation):
            combine(operation, sources, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    from checkpoints_made import bf16, save

    save(tmp_path / "weights.safetensors", {"w": bf16(np.ones(3))})
    with pytest.raises(UserError, match=r"not a mask .*measure BEFORE AFTER --mask"):
        Mask.open(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="no such file"):
        Mask.open(tmp_path / "absent.safetensors")
    whole = write(tmp_path / "m.safetensors", arrays(0)).path.read_bytes()
    with pytest.raises(UserError, match=r"a mask, .*; name that of the weights"):
        checkpoints.open(tmp_path / "m.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="cut short"):
        Mask.open(tmp_path / "cut.safetensors")
    (tmp_path / "shapes.safetensors").write_bytes(whole.replace(b"[37,91]", b"[37,95]"))
    with pytest.raises(UserError, match="damaged mask"):
        Mask.open(tmp_path / "shapes.safetensors")


def test_a_mask_that_fails_half_way_takes_no_name(tmp_path: Path) -> None:
    def half() -> None:
        with masks.writing(tmp_path / "m.safetensors", {"w": (100,)}, {"changed": "0"}) as writer:
            writer.write("w", np.zeros(5, np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
