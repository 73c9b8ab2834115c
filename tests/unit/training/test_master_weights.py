"""Runs without float32 master weights, by verl's real engine on a tiny model."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy  # noqa: E402
import tiny  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import launch, log, make_init, make_pairs, master_weights  # noqa: E402

from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import masks  # noqa: E402
from subnetworks.training.data import examples  # noqa: E402
from subnetworks.training.data.conversations import epochs, load_tokenizer  # noqa: E402
from subnetworks.training.runtime import finish, online, state  # noqa: E402
from subnetworks.training.settings import parse_settings  # noqa: E402

STEPS = 4
SETTINGS = {
    "algorithm": "dpo",
    "steps": STEPS,
    "batch_size": 4,
    "micro_batch_size": 4,
    # Steps of about a tenth of the weights' own gaps in bf16: most are lost without a master.
    "learning_rate": 1e-5,
    "weight_decay": 0.1,
    "save_every": 2,
    "save_dtype": "float32",
}
WITHOUT = ("none", "kahan", "stochastic_rounding")


def make_job(folder, name, kept, ranks=1, mask=None, resume=0, **changes):
    settings = {**SETTINGS, "master_weights": kept, **changes}
    return tiny.make_job(folder, name, settings, ranks, mask, resume, bfloat16="emulated")


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    make_init(folder / "init")
    make_pairs(folder / "data")
    generator = numpy.random.default_rng(0)
    arrays = {
        name: generator.random(shape) < 0.3
        for name, shape in finish.shapes(folder / "init").items()
    }
    mask = folder / "some.safetensors"
    masks.write(mask, arrays, rule="test")
    jobs = {"float32": make_job(folder, "float32", "float32", request.param)}
    for kept in WITHOUT:
        jobs[kept] = make_job(folder, kept, kept, request.param)
        jobs[f"{kept}, resumed"] = make_job(
            folder, f"{kept}, resumed", kept, request.param, resume=2
        )
        jobs[f"{kept}, masked"] = make_job(folder, f"{kept}, masked", kept, request.param, mask)
    launch(folder, jobs)
    return folder


def changed(folder, name):
    """Which weights are not the init's, by their tensors' names."""
    init = load_file(folder / "init" / "model.safetensors")
    ends = master_weights(folder, STEPS, name)
    return {key: ends[key].float() != init[key].float() for key in init}


def share(of, where=None):
    """The share of true entries, of those that are chosen."""
    picked = [value[where[name]] if where else value.reshape(-1) for name, value in of.items()]
    return torch.cat(picked).float().mean().item()


def out_of_reach(folder):
    """The weights of which half the gap in bf16 is more than any of the steps.

    A step is at most 1.01 learning rates in the first four: m̂ / √v̂, whatever the gradients, by
    Cauchy and Schwarz at betas of 0.9 and 0.999; and a tenth of |w| for the decay.
    """
    init = load_file(folder / "init" / "model.safetensors")
    zero = torch.zeros((), dtype=torch.bfloat16)
    gaps = {name: (w - w.nextafter(zero)).abs().float() for name, w in init.items()}
    most = {
        name: SETTINGS["learning_rate"] * (1.01 + 0.1 * w.abs().float()) for name, w in init.items()
    }
    return {name: gap / 2 > most[name] for name, gap in gaps.items()}


def plain(folder):
    """The same run by torch alone: bf16 parameters, and torch.optim.AdamW on them."""
    from transformers import AutoModelForCausalLM

    pairs = examples.read_pairs(
        folder / "data" / "train.parquet", load_tokenizer(folder / "init"), 2048, "error"
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)
    kept = {name: torch.nn.Parameter(p.bfloat16()) for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(
        kept.values(), lr=SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"]
    )

    def answer(ids, scored):
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        picked = logs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return (picked * torch.tensor(scored[1:])).sum()

    with torch.no_grad():
        reference = [[answer(*sequence) for sequence in pair] for pair in pairs]
    for rows in epochs(12, SETTINGS["batch_size"], STEPS, 0):
        terms = []
        for row in rows:
            chosen, rejected = (answer(*sequence) for sequence in pairs[row])
            margin = (chosen - reference[row][0]) - (rejected - reference[row][1])
            terms.append(-torch.nn.functional.logsigmoid(0.1 * margin))
        model.zero_grad()
        torch.stack(terms).mean().backward()
        for name, value in model.named_parameters():
            kept[name].grad = value.grad.bfloat16()
        torch.nn.utils.clip_grad_norm_(kept.values(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(kept[name])
    return {name: p.detach() for name, p in kept.items()}


def test_without_a_master_a_run_is_torchs_adamw_on_bf16_parameters(trained):
    folder = trained
    found, expected = master_weights(folder, STEPS, "none"), plain(folder)
    init = load_file(folder / "init" / "model.safetensors")
    unlike = sum(int((found[name] != expected[name]).sum()) for name in init)
    moved = sum(int((expected[name] != init[name]).sum()) for name in init)
    assert moved > 100 and unlike < moved / 20


def test_weights_and_moments_are_bf16_throughout(trained):
    folder = trained
    for kept in ("float32", *WITHOUT):
        dtype = torch.float32 if kept == "float32" else torch.bfloat16
        weights = master_weights(folder, STEPS, kept)
        assert {value.dtype for value in weights.values()} == {dtype}
        saved = state.shards(folder / kept / f"global_step_{STEPS}")
        for file in saved.glob("optim_*.pt"):
            found = torch.load(file, map_location="cpu", weights_only=False)
            for entry in found["state"].values():
                held = {value.dtype for key, value in entry.items() if key != "step"}
                assert held == {dtype}
                assert ("compensation" in entry) == (kept == "kahan")


def test_the_first_step_sees_the_same_model(trained):
    """The init is bf16, and what is not trained, such as positions, keeps its own precision."""
    folder = trained
    first = log(folder, "float32")[0]["loss"]
    assert [log(folder, kept)[0]["loss"] for kept in WITHOUT] == [first] * 3


def test_small_steps_are_lost_by_rounding_to_nearest_alone(trained):
    folder = trained
    far = out_of_reach(folder)
    assert share(far) > 0.5
    found = {kept: share(changed(folder, kept), far) for kept in ("float32", *WITHOUT)}
    assert found["float32"] > 0.8
    assert found["none"] == 0
    assert found["kahan"] > 0.05 and found["stochastic_rounding"] > 0.05


@pytest.mark.parametrize("kept", WITHOUT)
def test_resumed_it_ends_in_the_same_bits(trained, kept):
    folder = trained
    one, other = (master_weights(folder, STEPS, f"{kept}{how}") for how in ("", ", resumed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kept", WITHOUT)
def test_within_a_mask_nothing_outside_moves_and_the_end_is_written(trained, kept, tmp_path):
    folder = trained
    name = f"{kept}, masked"
    assert 0 < share(changed(folder, name)) < share(changed(folder, kept))
    saved = folder / name / f"global_step_{STEPS}"
    # Checks every entry outside the mask, bit by bit.
    finish.write_checkpoint(
        saved, folder / "init", tmp_path / "end", folder / "some.safetensors", "float32"
    )
    end = load_file(tmp_path / "end" / "model.safetensors")
    for key, value in master_weights(folder, STEPS, name).items():
        assert end[key].dtype == torch.float32
        assert torch.equal(end[key], value.float())
        assert torch.equal(end[key].bfloat16().float(), end[key])


def test_a_run_with_master_weights_is_recorded_as_before():
    given = {"algorithm": "dpo", "steps": 1, "learning_rate": 1e-6}
    for more in ({}, {"master_weights": "float32"}):
        assert "master_weights" not in parse_settings({**given, **more}).as_json()
    recorded = parse_settings({**given, "master_weights": "kahan"}).as_json()
    assert recorded["master_weights"] == "kahan"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compute_dtype": "float32"}, "which compute_dtype 'float32' contradicts"),
        ({"optimiser_state": "dense"}, "has no optimiser_state 'dense'"),
        ({"lora_rank": 4}, "lora_rank excludes master_weights 'kahan'"),
        ({"master_weights": "nearest"}, "'nearest' is not allowed"),
    ],
)
def test_what_contradicts_it_is_refused_by_name(changes, words):
    given = {"algorithm": "dpo", "steps": 1, "learning_rate": 1e-6, "master_weights": "kahan"}
    with pytest.raises(UserError, match=words):
        parse_settings({**given, **changes})


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "prime"])
def test_on_policy_it_is_the_policys_alone(tmp_path, algorithm):
    make_init(tmp_path / "init")
    settings = {"algorithm": algorithm, "steps": 1, "learning_rate": 1e-6, "seed": 3}
    job = tiny.make_job(tmp_path, "run", {**settings, "master_weights": "kahan"})
    given = online.options(job)
    section = "override_optimizer_config.subnetworks"
    policy = given[f"+actor_rollout_ref.actor.optim.{section}"]
    assert (policy["master_weights"], policy["seed"]) == ("kahan", 3)
    for beside in ("critic.optim", "actor_rollout_ref.reward_model.optim"):
        if (other := given.get(f"+{beside}.{section}")) is not None:
            assert other["master_weights"] == "float32"
