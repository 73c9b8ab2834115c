"""The null model against torch's AdamW on random gradients, and against rounding by force."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")
pytest.importorskip("torch")

import pyarrow.parquet
import torch
from calling import run as call
from checkpoints_made import bf16, save

from subnetworks.checkpoints.numbers import decode, round_to
from subnetworks.core.errors import UserError
from subnetworks.core.schedule import factor
from subnetworks.measuring import gradients, masks, null_model, updates
from subnetworks.measuring.mask_sources.predicted import ByNullModel
from subnetworks.measuring.null_model import Optimiser, Question, Signal
from subnetworks.measuring.updates import Rules, Selection

N = 60_000
GRPO = Optimiser(learning_rate=4e-6, steps=60, warmup_steps=6)
DPO = Optimiser(learning_rate=1.5e-6, steps=100, warmup_steps=10)
COSINE = Optimiser(
    learning_rate=1e-5, steps=150, schedule="cosine", betas=(0.9, 0.95), weight_decay=0.1
)
DECAYING = Optimiser(learning_rate=5e-5, steps=150, schedule="linear", weight_decay=1.0)
UPDATES = Optimiser(learning_rate=3e-6, steps=12, updates_per_step=4, betas=(0.8, 0.99))
SELECTIONS = [
    Selection(),
    Selection("isclose_bf16", "1e-5"),
    Selection("isclose_bf16", "1e-4"),
    Selection("absolute", "1e-5"),
    Selection("relative", "1e-2"),
]


def weights(seed=0, n=N):
    """Float32 numbers of bf16 as a model has them, some powers of two and zeros among them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(n) * np.exp(rng.normal(-4, 1, n))
    values[:2000] = 2.0 ** rng.integers(-12, 0, 2000)
    values[2000:2100] = 0
    return round_to(values.astype(np.float32), "BF16")


def trained(start, optimiser, snr=0.0, seed=1, noise=2, steps=None):
    """Float32 weights after torch's own AdamW on normal gradients, before rounding.

    `seed` decides what of every entry's gradient is the same in every step, `noise` the rest.
    """
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    adamw = torch.optim.AdamW(
        [parameter],
        lr=optimiser.learning_rate,
        betas=optimiser.betas,
        weight_decay=optimiser.weight_decay,
    )
    draw, further = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(noise)
    # Gradients of all sizes: AdamW does not see them.
    size = torch.exp(torch.randn(start.size, generator=draw) * 2 - 5)
    same = torch.randn(start.size, generator=draw)
    for step in range(steps or optimiser.steps):
        share = factor(step, optimiser.steps, optimiser.warmup_steps, optimiser.schedule)
        adamw.param_groups[0]["lr"] = optimiser.learning_rate * share
        for _ in range(optimiser.updates_per_step):
            other = torch.randn(start.size, generator=further)
            parameter.grad = size * (snr * same + other)
            adamw.step()
    return parameter.detach().numpy()


def is_changed(before, after, dtype, selection):
    """By the definitions of `updates.Rules`, on rounded ends."""
    if selection.rule == "isclose_bf16":
        dtype = "BF16"
    before, after = round_to(before, dtype), round_to(after, dtype)
    bound = np.float32(selection.tolerance or 0)
    if selection.rule == "isclose_bf16":
        close = torch.isclose(
            torch.from_numpy(after).bfloat16() - torch.from_numpy(before).bfloat16(),
            torch.zeros(1, dtype=torch.bfloat16),
            atol=float(selection.tolerance),
        )
        return ~close.numpy()
    if selection.rule == "relative":
        return np.abs(after - before) > bound * np.maximum(np.abs(after), np.abs(before))
    return np.abs(after - before) > bound


@pytest.mark.parametrize("optimiser", [GRPO, DPO, COSINE, DECAYING, UPDATES])
def test_as_many_entries_change_as_torch_changes(optimiser):
    start = weights()
    end = trained(start, optimiser)
    for dtype in ("BF16", "F16"):
        for selection in SELECTIONS:
            expected = null_model.probability_of_change(
                start, optimiser, dtype=dtype, selection=selection
            )
            found = is_changed(start, end, dtype, selection)
            error = math.sqrt((expected * (1 - expected)).sum()) / N
            # Four standard errors, and 0.15 points for a sum of few steps not being normal.
            assert abs(found.mean() - expected.mean()) < 4 * error + 0.0015, (dtype, selection)


def test_the_right_entries_change():
    """By the power of two of |w|, and from 0 to 1."""
    start = weights()
    expected = null_model.probability_of_change(start, GRPO)
    found = is_changed(start, trained(start, GRPO), "BF16", Selection())
    exponents = np.frexp(np.abs(start))[1]
    for exponent in range(-14, 2):
        here = exponents == exponent
        error = math.sqrt((expected[here] * (1 - expected[here])).sum()) / here.sum()
        difference = abs(found[here].mean() - expected[here].mean())
        assert difference < 4.5 * error + 0.01, exponent
    assert expected[start == 0].min() == 1
    assert expected[np.abs(start) > 0.1].max() < 1e-3


def test_steps_on_the_way_are_predicted():
    start = weights()
    expected = null_model.probability_of_change(start, COSINE, step=60)
    found = is_changed(start, trained(start, COSINE, steps=60), "BF16", Selection())
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert null_model.probability_of_change(start, COSINE).mean() > expected.mean() + 0.01


@pytest.mark.parametrize("optimiser", [GRPO, COSINE])
def test_the_displacement_has_the_spread_that_torch_gives_it(optimiser):
    start = np.zeros(N, np.float32)
    moved = null_model.displacement(optimiser)
    ends = trained(start, optimiser)
    assert ends.std() == pytest.approx(moved.noise, rel=4 / math.sqrt(2 * N) + 1e-3)
    assert np.mean(ends) == pytest.approx(0, abs=4 * moved.noise / math.sqrt(N))


@pytest.mark.parametrize("snr", [0.1, 0.5])
def test_gradients_with_a_signal(snr):
    start = weights()
    expected = null_model.probability_of_change(start, GRPO, snr=snr)
    found = is_changed(start, trained(start, GRPO, snr), "BF16", Selection())
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert found.mean() > null_model.probability_of_change(start, GRPO).mean() + 0.01


@pytest.mark.parametrize("snr", [0.0, 0.2])
def test_two_runs_overlap_as_two_of_torch_do(tmp_path, snr):
    start = weights()
    save(tmp_path / "init.safetensors", {"model.layers.0.mlp.up_proj.weight": bf16(start)})
    found = null_model.predict(
        tmp_path / "init.safetensors",
        Question(GRPO, (60,)),
        signals={"model.layers.0.mlp.up_proj.weight": Signal(snr)},
    )
    row = null_model.summarise(found)
    first, second = (
        is_changed(start, trained(start, GRPO, snr, noise=noise), "BF16", Selection())
        for noise in (2, 3)
    )
    both = (first & second).sum()
    assert row["two_runs"]["o1"] == pytest.approx(both / first.sum(), abs=0.01)
    assert row["two_runs"]["jaccard"] == pytest.approx(both / (first | second).sum(), abs=0.01)
    assert row["two_runs"]["o1"] > 1.5 * first.mean()


def batches_of(snr, batches=16, still=0.2, n=N):
    """Mean and mean square of gradients, of which the first entries have none."""
    rng = np.random.default_rng(8)
    moving = rng.random(n) >= still
    size = np.exp(rng.normal(-5, 2, n)) * moving
    same = rng.standard_normal(n)
    each = [size * (snr * same + rng.standard_normal(n)) for _ in range(batches)]
    mean, square = np.mean(each, axis=0), np.mean(np.square(each), axis=0)
    return mean.astype(np.float32), square.astype(np.float32), batches


@pytest.mark.parametrize("snr", [0.0, 0.3, 2.0])
def test_the_signal_of_gradients_is_found(snr):
    found = null_model.signal_of(*batches_of(snr))
    assert found.snr == pytest.approx(snr, abs=0.05, rel=0.05)
    assert found.still == pytest.approx(0.2, abs=0.01)
    nothing = np.zeros(10, np.float32)
    assert null_model.signal_of(nothing, nothing, 16) == Signal(0.0, 1.0)
    assert null_model.signal_of(*batches_of(snr, batches=1)).snr == 0


def test_entries_without_gradients_stay(tmp_path):
    name, start = "model.layers.0.mlp.up_proj.weight", weights()
    save(tmp_path / "init.safetensors", {name: bf16(start)})
    signals = [{name: Signal(0.3)}, {name: Signal(0.3, still=0.25)}]
    moving, some = (
        null_model.predict(tmp_path / "init.safetensors", Question(GRPO, (60,)), signals=one)
        for one in signals
    )
    for key in ("changed", "both"):
        assert getattr(some.tensors[0], key) == pytest.approx(
            0.75 * getattr(moving.tensors[0], key)
        )
    # In sums as entry by entry.
    expected = null_model.probability_of_change(start, GRPO, snr=0.3).sum()
    assert moving.tensors[0].changed[0, 0] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="no gradients of"):
        null_model.predict(tmp_path / "init.safetensors", Question(GRPO, (60,)), signals={})


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_margins_are_where_rounding_changes(dtype, selection):
    """On numbers of the format and between them, to both sides."""
    rng = np.random.default_rng(3)
    size = np.abs(weights(4, 40_000))
    size[20_000:] *= rng.uniform(0.99, 1.01, 20_000).astype(np.float32)
    fall, rise = null_model.margins(size, dtype, selection)
    for by in (0.5, 0.98, 1.02, 1.5):
        for margin, side in ((fall, -1), (rise, 1)):
            end = (size + side * by * margin).astype(np.float32)
            found = is_changed(size, end, dtype, selection)
            # Not where float32 has no number between the margin and what is tried.
            fine = margin > 64 * np.spacing(size)
            assert fine.mean() > 0.8
            assert (found[fine] == (by > 1)).mean() > 0.999, (by, side)


def test_limits():
    start = weights()
    nothing = null_model.probability_of_change(start, Optimiser(learning_rate=0.0, steps=10))
    assert nothing.max() == 0
    # Decay alone moves every weight by as large a share.
    decay = Optimiser(learning_rate=1.0, steps=1, weight_decay=0.5)
    assert null_model.displacement(decay).decay == 0.5
    huge = null_model.probability_of_change(start, Optimiser(learning_rate=10.0, steps=10))
    assert huge.min() > 0.95
    one = null_model.displacement(Optimiser(learning_rate=1e-3, steps=1, weight_decay=0))
    assert (one.noise, one.drift) == pytest.approx((1e-3, 1e-3))
    always = Optimiser(learning_rate=1e-6, steps=100, weight_decay=0)
    assert null_model.displacement(always).drift == pytest.approx(1e-4)
    # (1 − β₁)/(1 + β₁) of the variance at each of many steps, all but uncorrelated beyond some ten.
    long = Optimiser(learning_rate=1.0, steps=20_000, weight_decay=0)
    assert null_model.displacement(long).noise == pytest.approx(math.sqrt(20_000), rel=1e-3)
    finer = [
        null_model.probability_of_change(start, DPO, dtype=dtype).mean()
        for dtype in ("BF16", "F16", "F32")
    ]
    assert finer[0] + 0.2 < finer[1] < finer[2]
    assert finer[2] > 0.99
    strange = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert null_model.probability_of_change(strange, GRPO)[:3].tolist() == [0, 0, 0]


@pytest.fixture
def init(tmp_path):
    rng = np.random.default_rng(5)
    tensors = {
        "model.embed_tokens.weight": bf16(weights(1, 6400).reshape(64, 100)),
        "model.layers.0.mlp.up_proj.weight": bf16(weights(2, 6000).reshape(60, 100)),
        "model.layers.0.mlp.down_proj.weight": ("F32", rng.random((30, 7), np.float32).view("u4")),
        "model.layers.0.input_layernorm.weight": bf16(np.ones(100, np.float32)),
    }
    save(tmp_path / "init.safetensors", tensors)
    return tmp_path / "init.safetensors", tensors


def by_hand(tensors, steps, selection=null_model.EQUAL, within=None):
    return {
        name: null_model.probability_of_change(
            decode(bits, dtype), GRPO, step=steps, selection=selection
        )
        * (1 if within is None else within[name])
        for name, (dtype, bits) in tensors.items()
    }


def test_sums_are_those_of_the_entries(init):
    file, tensors = init
    found = null_model.predict(file, Question(GRPO, (5, 60)))
    summary = null_model.summarise(found)
    assert summary["n"] == summary["trained"] == 6400 + 6000 + 210 + 100
    for row, step in zip(summary["steps"], (5, 60), strict=True):
        entries = by_hand(tensors, step)
        assert row["changed"] == pytest.approx(sum(p.sum() for p in entries.values()))
        assert row["n"] - row["equal"] == pytest.approx(row["changed"])
        both = sum((p**2).sum() for p in entries.values())
        assert row["two_runs"]["intersection"] == pytest.approx(both)
        paper = by_hand(tensors, step, Selection("isclose_bf16", "1e-5"))
        close = 1 - sum(p.sum() for p in paper.values()) / row["n"]
        assert row["sparsity"] == pytest.approx(close)
    inner = summary["without_embeddings"]
    assert inner["n"] == summary["n"] - 6400
    by_tensor = {row["name"]: row for row in summary["tensors"]}
    for name, expected in by_hand(tensors, 60).items():
        assert by_tensor[name]["changed"] == pytest.approx(expected.sum())
    rows = null_model.table(found)
    assert len(rows) == 8
    assert sum(row["equal"] for row in rows if row["step"] == 60) == pytest.approx(summary["equal"])


def test_what_is_outside_a_mask_stays(init, tmp_path):
    file, tensors = init
    rng = np.random.default_rng(6)
    inside = {name: rng.random(bits.shape) < 0.3 for name, (_, bits) in tensors.items()}
    masks.write(tmp_path / "mask.safetensors", inside, rule="test")
    found = null_model.predict(file, Question(GRPO, (60,)), mask=tmp_path / "mask.safetensors")
    summary = null_model.summarise(found)
    assert summary["trained"] == sum(int(bits.sum()) for bits in inside.values())
    expected = by_hand(tensors, 60, within=inside)
    assert summary["changed"] == pytest.approx(sum(p.sum() for p in expected.values()))
    masks.write(tmp_path / "other.safetensors", {"a": np.ones(3, bool)}, rule="test")
    with pytest.raises(UserError, match=r"no mask of shape .* a mask of the same model is needed"):
        null_model.predict(file, Question(GRPO, (60,)), mask=tmp_path / "other.safetensors")


def test_command_line(init, tmp_path):
    file, _ = init
    line = (
        f"predict {file} --learning-rate 4e-6 --steps 60 --warmup-steps 6 --at 5 --isclose 1e-4 "
        f"--json {tmp_path / 'p.json'} --table {tmp_path / 'p.parquet'}"
    )
    assert "60" in call(*line.split())
    summary = json.loads((tmp_path / "p.json").read_text())
    question = Question(GRPO, (5, 60), rules=Rules(isclose_bf16=("1e-4",)))
    expected = null_model.summarise(null_model.predict(file, question))
    assert summary == json.loads(json.dumps(expected))
    # The names are a measurement's.
    measured = updates.summarise(updates.measure(file, file, rules=question.rules))
    for key in ("n", "equal", "isclose_bf16", "absolute", "relative", "sparsity"):
        assert type(summary[key]) in (type(measured[key]), float)
    assert set(summary["isclose_bf16"]) == set(measured["isclose_bf16"])
    assert pyarrow.parquet.read_table(tmp_path / "p.parquet").num_rows == 8
    assert (tmp_path / "p.json.meta.json").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--at 61", "61 is none of the 60 steps"),
        ("--betas 0.9", "expected two numbers"),
        ("--betas 0.9,1", r"two numbers in \[0, 1\)"),
        ("--at x", "expected whole numbers"),
    ],
)
def test_what_is_refused(init, option, says):
    with pytest.raises(UserError, match=says):
        call(*f"predict {init[0]} --learning-rate 4e-6 --steps 60 {option}".split())


def test_a_runs_settings_say_the_same(init, tmp_path):
    file, _ = init
    run = {"algorithm": "sft", "learning_rate": 4e-6, "batch_size": 32, "max_length": 64}
    run |= {"epochs": 2, "warmup_ratio": 0.1, "trajectory_every": 25, "weight_decay": 0.0}
    examples = pyarrow.table({"messages": ["x"] * 960})
    pyarrow.parquet.write_table(examples, tmp_path / "train.parquet")

    def predicted(options):
        return json.loads(call("predict", file, "--json", "-", *options))

    by_run = predicted(["--settings", json.dumps(run), "--data", str(tmp_path)])
    by_hand = "--learning-rate 4e-6 --steps 60 --warmup-steps 6 --weight-decay 0 --at 25,50"
    assert by_run == predicted(by_hand.split())
    assert [row["step"] for row in by_run["steps"]] == [25, 50, 60]
    with pytest.raises(UserError, match="trains adapters"):
        predicted(
            [
                "--settings",
                json.dumps({**run, "trajectory_every": 0, "lora_rank": 4}),
                "--data",
                str(tmp_path),
            ]
        )
    with pytest.raises(UserError, match="say of which data set with --data"):
        predicted(["--settings", json.dumps(run)])
    with pytest.raises(UserError, match="give one"):
        predicted(["--settings", json.dumps(run), "--steps", "3"])
    with pytest.raises(UserError, match="needs --learning-rate and --steps, or --settings"):
        predicted(["--steps", "3"])


def test_gradients_at_the_init_are_taken_into_account(init, tmp_path):
    file, tensors = init
    digest = null_model.predict(file, Question(GRPO, (60,))).digest
    found, sums, squares = {}, [], []
    for name, (_, bits) in tensors.items():
        mean, square, batches = batches_of(0.5, n=bits.size)
        found[name] = null_model.signal_of(mean, square, batches)
        sums.append(mean * batches)
        squares.append(square * batches)
    shapes = {name: bits.shape for name, (_, bits) in tensors.items()}

    def predicted(before):
        path = tmp_path / "gradients.safetensors"
        facts = {"before": before, "settings": "{}"}
        gradients.write(path, shapes, [*sums, *squares], 16, facts)
        how = "--learning-rate 4e-6 --steps 60 --warmup-steps 6 --json - --gradients"
        return json.loads(call("predict", file, *how.split(), path))

    summary = predicted(digest)
    expected = null_model.predict(file, Question(GRPO, (60,)), signals=found)
    assert summary["changed"] == pytest.approx(null_model.summarise(expected)["changed"], rel=1e-4)
    assert not summary["noise_alone"]
    with pytest.raises(UserError, match="measure them at this one"):
        predicted("another")


def test_a_mask_counts_its_runs_warm_up_in_steps() -> None:
    source = ByNullModel.model_validate({"predicted": {"run": "dpo", "density": 0.1}})
    run = {"learning_rate": 5e-7, "steps": 16, "warmup_ratio": 0.1, "schedule": "linear"}
    assert not list(source.refused(run))
    told = {"learning_rate": 5e-7, "steps": 16, "warmup_steps": 2, "schedule": "linear"}
    assert source.settings(run) == {"settings": told}
    assert source.settings(told) == {"settings": told}
    assert [text for _, text in source.refused({"epochs": 1})]
