"""Masks of the highest scores, and scores from gradients, against plain numpy."""

import json

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run as call
from checkpoints_made import llama, save

from subnetworks import checkpoints
from subnetworks.checkpoints.identity import digest
from subnetworks.checkpoints.numbers import decode
from subnetworks.core.errors import UserError
from subnetworks.measuring import draws, gradients, masks, rankings, scores
from subnetworks.measuring.gradients import Gradients
from subnetworks.measuring.mask_making import Request
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.scores import Scores

BATCHES = 5
RUN = {"learning_rate": 1e-5, "steps": 40, "betas": [0.9, 0.95], "save_dtype": "bfloat16"}


@pytest.fixture
def made(tmp_path):
    """A checkpoint, gradients of five batches at it, and their file."""
    rng = np.random.default_rng(0)
    tensors = llama(rng)
    save(tmp_path / "init.safetensors", tensors)
    shapes = {name: bits.shape for name, (_, bits) in tensors.items()}
    each = {
        name: rng.standard_normal((BATCHES, *shape)).astype(np.float32) * rng.random()
        for name, shape in shapes.items()
    }
    with checkpoints.open(tmp_path / "init.safetensors") as opened:
        facts = {"before": digest(opened), "settings": json.dumps(RUN)}
    gradients.write(
        tmp_path / "gradients.safetensors",
        shapes,
        [value.sum(0) for value in each.values()] + [(value**2).sum(0) for value in each.values()],
        BATCHES,
        facts,
    )
    return tmp_path, each, shapes


def test_moments_of_gradients_are_numpys(made):
    folder, each, _ = made
    opened = Gradients(folder / "gradients.safetensors")
    assert opened.names == list(each)
    for name, value in each.items():
        flat = value.reshape(BATCHES, -1).astype(np.float64)
        np.testing.assert_allclose(opened.mean(name), flat.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(opened.square(name), (flat**2).mean(0), rtol=1e-5)
        wanted = np.abs(flat.mean(0)) / flat.std(0, ddof=1)
        np.testing.assert_allclose(opened.signal(name), wanted, rtol=1e-3, atol=1e-4)


def test_a_signal_without_noise_is_infinite_and_none_is_zero(tmp_path):
    same = np.array([0.0, 0.5, 2.0], np.float32)
    file = tmp_path / "same.safetensors"
    facts = {"before": "", "settings": "{}"}
    gradients.write(file, {"w": same.shape}, [same * 4, same**2 * 4], 4, facts)
    assert Gradients(file).signal("w").tolist() == [0, np.inf, np.inf]
    gradients.write(file, {"w": same.shape}, [same, same**2], 1, facts)
    with pytest.raises(UserError, match="of one batch, which has no deviation"):
        Gradients(file).signal("w")


def top(value, count):
    """The highest entries, no two of which are equal."""
    chosen = np.zeros(value.size, bool)
    chosen[np.argsort(-value.reshape(-1), kind="stable")[:count]] = True
    return chosen


def run(*words):
    return call("mask", *words)


def test_fisher_takes_the_largest_mean_squares_of_each_tensor(made):
    folder, each, _ = made
    file, out = folder / "gradients.safetensors", folder / "m.safetensors"
    run("fisher", file, "--density", "0.13", "--output", out)
    mask = Mask.open(out)
    for name, value in each.items():
        square = (value.astype(np.float64) ** 2).sum(0)
        wanted = top(square, int(np.floor(0.13 * square.size + 0.5)))
        assert np.array_equal(mask.array(name).ravel(), wanted), name
    assert mask.metadata["before"] == Gradients(file).before
    assert (mask.metadata["operation"], mask.metadata["over"]) == ("fisher", "each tensor")


def test_in_all_takes_them_wherever_they_are(made):
    folder, each, shapes = made
    rng = np.random.default_rng(2)
    like = {name: rng.random(shape) < 0.2 for name, shape in shapes.items()}
    like["model.norm.weight"][:] = True
    masks.write(folder / "like.safetensors", like)
    words = ("--like", folder / "like.safetensors", "--in-all", "--output", folder / "m")
    run("gradient_signal", folder / "gradients.safetensors", *words)
    opened, mask = Gradients(folder / "gradients.safetensors"), Mask.open(folder / "m")
    every = np.concatenate([opened.signal(name) for name in each])
    count = sum(int(value.sum()) for value in like.values())
    found = np.concatenate([mask.array(name).ravel() for name in each])
    assert np.array_equal(found, top(every, count))
    assert int(mask.metadata["changed"]) == count


def test_a_tensor_in_many_pieces_is_scored_as_a_whole(made, monkeypatch):
    monkeypatch.setattr(scores, "_PIECE", 7)
    folder, each, _ = made
    file, out = folder / "gradients.safetensors", folder / "m.safetensors"
    opened, given = Gradients(file), scores.of_gradients(file, "signal")
    for name in each:
        assert np.array_equal(given.of(name), opened.signal(name)), name
    weights = scores.of_weights(folder / "init.safetensors", np.abs)
    with checkpoints.open(folder / "init.safetensors") as init:
        for name, tensor in init.tensors.items():
            whole = np.abs(decode(tensor.raw(), tensor.dtype))
            assert np.array_equal(weights.of(name), whole), name
    scores.make("test", Request([], out, in_all=True, options={"density": 0.13}), given)
    every = np.concatenate([opened.signal(name) for name in each])
    found = np.concatenate([Mask.open(out).array(name).ravel() for name in each])
    assert np.array_equal(found, top(every, found.sum()))
    assert found.sum() == sum(int(np.floor(0.13 * value[0].size + 0.5)) for value in each.values())


@pytest.mark.parametrize(
    ("in_all", "limit"), [(False, draws.LIMIT), (True, draws.LIMIT), (True, 100)]
)
def test_equal_scores_are_drawn_by_the_seed_and_evenly(tmp_path, monkeypatch, in_all, limit):
    monkeypatch.setattr(draws, "LIMIT", limit)  # as with more of them than NumPy draws among
    values = {
        "a": np.repeat(np.array([0.0, 1.0, 2.0], np.float32), 3000),
        "b": np.full(3000, 1.0, np.float32),
    }
    values["a"][:1000] = -0.0
    shapes = {name: value.shape for name, value in values.items()}
    given = Scores(shapes, values.__getitem__, "", "here")

    def drawn(seed):
        out = tmp_path / "m"
        options = {"density": 0.5}
        request = Request([], out, seed=seed, in_all=in_all, options=options)
        scores.make("test", request, given)
        return {name: Mask.open(out).array(name) for name in values}

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(np.array_equal(first[name], again[name]) for name in values)
    assert not np.array_equal(first["b"], other["b"])
    assert first["a"][6000:].all()
    assert not first["a"][:3000].any()
    # 6,000 in all: the 3,000 of score 2, and half of the 6,000 of score 1; or 4,500 and 1,500.
    part = first["a"][3000:6000].sum()
    assert part == 1500 if not in_all else abs(part - 1500) < 6 * 28
    assert first["b"].sum() == 1500 if not in_all else part + first["b"].sum() == 3000
    halves = first["b"][:1500].sum() / first["b"].sum()
    assert abs(halves - 0.5) < 6 * 0.013


def test_predicted_and_product_follow_the_null_model(made):
    null_model = pytest.importorskip("subnetworks.measuring.null_model")
    folder, each, _ = made
    known = {"learning_rate": 1e-5, "steps": 40, "betas": (0.9, 0.95)}
    optimiser = null_model.Optimiser(**known)
    with checkpoints.open(folder / "init.safetensors") as opened:
        chance = {
            name: null_model.probability_of_change(
                decode(tensor.raw(), tensor.dtype), optimiser
            ).reshape(-1)
            for name, tensor in opened.tensors.items()
        }
    out, more = folder / "m", ("--density", "0.2", "--output", folder / "m")
    run("predicted", folder / "init.safetensors", "--set", f"settings={json.dumps(RUN)}", *more)
    mask = Mask.open(out)
    for name in each:
        found = mask.array(name).ravel()
        value = chance[name].astype(np.float32)
        assert found.sum() == int(np.floor(0.2 * value.size + 0.5))
        assert value[found].min() >= value[~found].max(), name
    files = (folder / "gradients.safetensors", folder / "init.safetensors")
    run("product", *files, "--set", 'of=["fisher","predicted"]', *more)
    mask = Mask.open(out)
    for name, value in each.items():
        square = (value**2).mean(0).reshape(-1)
        both = square * chance[name].astype(np.float32)
        found = mask.array(name).ravel()
        assert both[found].min() >= both[~found].max() * (1 - 1e-5), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fisher", "INIT", "--density", "0.1"], "not a file of gradients"),
        (["fisher", "none", "--density", "0.1"], "written by: subnetworks gradients"),
        (["fisher", "FILE"], "needs either --like MASK or --density"),
        (["fisher", "FILE", "--like", "OTHER"], "digest"),
        (["predicted", "INIT", "--density", "0.1"], "needs the run's settings"),
        (["predicted", "INIT", "--density", "0.1", "--set", "settings={}"], "'learning_rate'"),
        (["product", "FILE", "--density", "0.1", "--set", 'of=["fisher","fisher"]'], "got 1"),
        (["product", "FILE", "INIT", "--density", "0.1"], "needs --set of"),
        (["product", "FILE", "INIT", "--density", "0.1", "--set", 'of=["a","b"]'], "not allowed"),
    ],
)
def test_what_makes_no_sense_is_refused(made, words, message):
    folder, _, shapes = made
    if "settings={}" in words:
        pytest.importorskip("subnetworks.measuring.null_model")
    ones = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    masks.write(folder / "other", ones, before="0" * 64)
    places = {"INIT": "init.safetensors", "FILE": "gradients.safetensors", "OTHER": "other"}
    line = [str(folder / places[word]) if word in places else word for word in words]
    with pytest.raises(UserError, match=message):
        run(*line, "--output", folder / "out")
    assert not (folder / "out").exists()


def average_precision(values, changed):
    """As its definition has it: over all thresholds, entry by entry."""
    total, recall = 0.0, 0.0
    for bound in np.unique(values)[::-1]:
        chosen = values >= bound
        now = (changed & chosen).sum() / changed.sum()
        total += (now - recall) * (changed & chosen).sum() / chosen.sum()
        recall = now
    return total


def test_a_ranking_is_judged_as_defined(made):
    folder, each, shapes = made
    rng = np.random.default_rng(3)
    opened = Gradients(folder / "gradients.safetensors")
    values = {name: np.round(opened.square(name), 1) for name in each}  # many are equal
    changed = {
        name: rng.random(value.size) < 0.1 + 0.5 * (value > np.median(value))
        for name, value in values.items()
    }
    bits = {name: value.reshape(shapes[name]) for name, value in changed.items()}
    masks.write(folder / "mask", bits, before=opened.before)
    given = Scores(shapes, values.__getitem__, opened.before, "here")
    found = rankings.rank(Mask.open(folder / "mask"), given, densities=[0.25, 1.0])
    value, truth = np.concatenate([*values.values()]), np.concatenate([*changed.values()])
    assert (found["n"], found["changed"]) == (value.size, truth.sum())
    assert found["average_precision"] == pytest.approx(average_precision(value, truth))
    weighted = [average_precision(values[n], changed[n]) * changed[n].sum() for n in each]
    assert found["average_precision_per_tensor"] == pytest.approx(sum(weighted) / truth.sum())
    by_density = {row["density"]: row for row in found["sweep"]}
    assert by_density[1.0]["recall"] == pytest.approx(1)
    assert by_density[1.0]["precision"] == pytest.approx(truth.mean())
    # Drawn among equal ones many times.
    drawn = []
    for _ in range(300):
        order = np.lexsort((rng.random(value.size), -value))[: round(0.25 * value.size)]
        drawn.append(truth[order].mean())
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert by_density[0.25]["precision"] == pytest.approx(np.mean(drawn), abs=6 * error + 1e-4)


def test_the_command_line_judges_a_source(made):
    folder, _, _ = made
    file = folder / "gradients.safetensors"
    run("fisher", file, "--density", "0.3", "--in-all", "--output", folder / "mask")
    found = json.loads(call("ranking", folder / "mask", "fisher", file, "--json", "-"))
    assert found["average_precision"] == pytest.approx(1)
    allowed = "random has no scores; allowed: fisher, gradient_signal, magnitude"
    with pytest.raises(UserError, match=allowed):
        call("ranking", folder / "mask", "random", file)
