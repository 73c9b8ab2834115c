"""Masks by weights against plain numpy sorts of the whole tensors."""

import re

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run
from checkpoints_made import bf16, llama, save, updated

from subnetworks import checkpoints
from subnetworks.checkpoints import deltas
from subnetworks.checkpoints.identity import digest
from subnetworks.checkpoints.numbers import decode
from subnetworks.core.errors import UserError
from subnetworks.measuring import masks, updates
from subnetworks.measuring.mask_sources import magnitude, principal
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.selections import Share


@pytest.fixture
def model(tmp_path):
    """A checkpoint with many ties, and a mask of it of uneven density; (file, tensors, mask)."""
    rng = np.random.default_rng(0)
    tensors = llama(rng)
    tensors["model.layers.0.self_attn.q_proj.weight"] = bf16(
        rng.integers(-3, 4, (24, 24)).astype(np.float32)
    )
    tensors["model.layers.0.mlp.experts.weight"] = bf16(rng.standard_normal((3, 10, 7)))
    save(tmp_path / "model.safetensors", tensors)
    arrays = {
        name: rng.random(bits.shape) < rng.random() ** 2 for name, (_, bits) in tensors.items()
    }
    arrays["model.layers.1.self_attn.q_proj.weight"][:] = False
    arrays["model.layers.1.self_attn.k_proj.weight"][:] = True
    masks.write(tmp_path / "like.safetensors", arrays, rule="test")
    return tmp_path / "model.safetensors", tensors, Mask.open(tmp_path / "like.safetensors")


def values(tensors, name):
    return decode(tensors[name][1], tensors[name][0])


def lowest(size, count):
    """A stable sort takes the first of equal entries."""
    chosen = np.zeros(size.size, bool)
    chosen[np.argsort(size.reshape(-1), kind="stable")[:count]] = True
    return chosen.reshape(size.shape)


def largest(size, count):
    return lowest(-size, count)


def test_magnitude_like_a_mask(model, tmp_path):
    file, tensors, like = model
    changed = magnitude.magnitude(file, tmp_path / "m.safetensors", Share(like=like))
    mask = Mask.open(tmp_path / "m.safetensors")
    assert mask.shapes == like.shapes
    for name in like.names:
        wanted = lowest(np.abs(values(tensors, name)), like.count(name))
        assert np.array_equal(mask.array(name), wanted), name
    assert changed == sum(map(like.count, like.names)) == int(mask.metadata["changed"])
    with checkpoints.open(file) as opened:
        assert mask.metadata["before"] == digest(opened)
    assert mask.metadata["density"] == "like like.safetensors"


@pytest.mark.parametrize("density", [0.0, 0.13, 1.0])
def test_magnitude_of_a_share(model, tmp_path, density):
    file, tensors, _ = model
    magnitude.magnitude(file, tmp_path / "m.safetensors", Share(density=density))
    mask = Mask.open(tmp_path / "m.safetensors")
    for name in mask.names:
        size = np.abs(values(tensors, name))
        wanted = lowest(size, int(np.floor(density * size.size + 0.5)))
        assert np.array_equal(mask.array(name), wanted), name


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_magnitude_at_any_width_over_several_chunks(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(magnitude, "_CHUNK", 1 << 10)
    rng = np.random.default_rng(1)
    drawn = np.round(rng.standard_normal((70, 71)), 2)  # ties at every width
    drawn[0, :5] = [0.0, -0.0, np.inf, np.nan, -np.inf]
    stored = {
        "BF16": lambda: bf16(drawn),
        "F16": lambda: ("F16", drawn.astype(np.float16).view(np.uint16)),
        "F32": lambda: ("F32", drawn.astype(np.float32).view(np.uint32)),
        "F64": lambda: ("F64", drawn.view(np.uint64)),
    }[dtype]()
    save(tmp_path / "w.safetensors", {"w.weight": stored})
    magnitude.magnitude(tmp_path / "w.safetensors", tmp_path / "m", Share(density=0.4))
    with np.errstate(over="ignore"):
        size = np.abs(drawn if dtype == "F64" else decode(stored[1], dtype))
    wanted = lowest(size, round(0.4 * size.size))
    assert np.array_equal(Mask.open(tmp_path / "m").array("w.weight"), wanted)


@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_principal_like_a_mask(model, tmp_path, rank):
    file, tensors, like = model
    principal.principal(file, tmp_path / "p.safetensors", Share(like=like), rank)
    mask = Mask.open(tmp_path / "p.safetensors")
    for name in like.names:
        whole = values(tensors, name).astype(np.float64)
        found = mask.array(name)
        stack = whole if whole.ndim == 3 else whole[None]
        for matrix, chosen, wanted in zip(
            stack,
            found.reshape(stack.shape),
            like.array(name).reshape(stack.shape),
            strict=True,
        ):
            if matrix.ndim == 2:
                u, s, vt = np.linalg.svd(matrix, full_matrices=False)
                near = (u[:, :rank] * s[:rank]) @ vt[:rank]
            else:
                near = matrix
            size, count = np.abs(near), int(wanted.sum())
            assert int(chosen.sum()) == count
            # Rounding of the two decompositions may swap entries that are equal to 1e-12.
            if 0 < count < size.size:
                assert size[chosen].min() >= size[~chosen].max() - 1e-12 * size.max()
    assert mask.metadata["rank"] == str(rank)


def test_principal_of_large_values_is_theirs(tmp_path):
    """Rank 1 exactly: the approximation is the matrix, and the choice is its largest entries."""
    rng = np.random.default_rng(0)
    left = rng.permutation(30).astype(np.float32)[:, None] + 1
    right = (2.0 ** rng.permutation(8)).astype(np.float32)[None]
    save(tmp_path / "w.safetensors", {"model.layers.0.mlp.up_proj.weight": bf16(left @ right)})
    principal.principal(tmp_path / "w.safetensors", tmp_path / "p", Share(density=0.1), 1)
    found = Mask.open(tmp_path / "p").array("model.layers.0.mlp.up_proj.weight")
    size = left @ right
    assert size[found].min() >= size[~found].max()


def test_early_is_what_measuring_says(model, tmp_path):
    file, tensors, _ = model
    after = updated(tensors, np.random.default_rng(1), share=0.1)
    save(tmp_path / "after.safetensors", after)
    delta = tmp_path / "run" / "step_000004.safetensors"
    with (
        checkpoints.open(file) as first,
        checkpoints.open(tmp_path / "after.safetensors") as second,
    ):
        deltas.write(delta, first, second.tensors, base=digest(first))
    updates.measure(file, tmp_path / "after.safetensors", mask=tmp_path / "wanted")
    run("mask", "early", delta, "--output", tmp_path / "e")
    assert (tmp_path / "e").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_the_command_line_makes_them(model, tmp_path):
    file, _, like = model
    made = run(
        "mask", "principal", file, "--like", like.path, "--rank", 2, "--output", tmp_path / "p"
    )
    assert f"{sum(map(like.count, like.names))} of {like.n} entries set" in made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["magnitude", "MODEL"], "either --like MASK or --density"),
        (["magnitude", "MODEL", "--like", "LIKE", "--density", "0.1"], "either --like"),
        (["magnitude", "MODEL", "--density", "1.5"], "between 0 and 1"),
        (["magnitude", "MODEL", "--density", "0.1", "--rank", "2"], "--rank is for principal"),
        (["principal", "MODEL", "--density", "0.1"], "needs --rank"),
        (["principal", "MODEL", "--density", "0.1", "--rank", "0"], "at least 1"),
        (["principal", "MODEL", "MODEL", "--density", "0.1", "--rank", "2"], "needs one checkp"),
        (["early", "MODEL"], "not a delta"),
        (["early", "FOLDER"], "is a folder; name the file of one step of a trajectory"),
        (["random", "LIKE", "LIKE"], "needs one mask"),
        (["complement", "LIKE", "--density", "0.1"], "--density is for fisher, "),
        (["magnitude", "OTHER", "--like", "LIKE"], "absent or of another shape"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tmp_path, arguments, words):
    file, tensors, like = model
    other = tmp_path / "other.safetensors"
    save(other, dict(list(tensors.items())[1:]))
    places = {"MODEL": str(file), "LIKE": str(like.path), "OTHER": str(other)}
    places["FOLDER"] = str(tmp_path)
    line = [places.get(word, word) for word in arguments]
    with pytest.raises(UserError, match=re.escape(words)):
        run("mask", *line, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
