"""verl's real engine on a tiny model: full, within masks, over one and two ranks, resumed."""

import json
import shutil
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy  # noqa: E402
import tiny  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import launch, log, make_init, make_pairs, master_weights, saved_weights  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.checkpoints import identity  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import masks  # noqa: E402
from subnetworks.training.engine import masking  # noqa: E402
from subnetworks.training.runtime import finish, state, trajectory  # noqa: E402

STEPS = 4
SETTINGS = {
    "algorithm": "dpo",
    "steps": STEPS,
    "batch_size": 4,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "schedule": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.5,
    "max_grad_norm": 0.05,  # far below the norms met here: clipping must see the masked gradient
    "save_every": 2,
}


LESS_MEMORY = {
    "gradient_checkpointing": True,
    "offload_weights": True,
    "offload_optimiser": True,
}


def make_job(folder, name, ranks, mask=None, resume=0, machine=None, **changes):
    settings = {**SETTINGS, **changes}
    return tiny.make_job(folder, name, settings, ranks, mask, resume, **(machine or {}))


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    make_init(folder / "init")
    make_pairs(folder / "data")
    shapes = finish.shapes(folder / "init")
    generator = numpy.random.default_rng(0)
    kinds = {
        "ones": {name: numpy.ones(shape, bool) for name, shape in shapes.items()},
        "some": {name: generator.random(shape) < 0.3 for name, shape in shapes.items()},
    }
    # A tensor that is frozen whole.
    kinds["some"]["model.layers.0.self_attn.q_proj.weight"][:] = False
    for name, arrays in kinds.items():
        masks.write(folder / f"{name}.safetensors", arrays, rule="test")
    jobs = {
        "full": make_job(folder, "full", request.param),
        "ones": make_job(folder, "ones", request.param, folder / "ones.safetensors"),
        "some": make_job(folder, "some", request.param, folder / "some.safetensors"),
        # The same again, as if interrupted after its second step.
        "resumed": make_job(folder, "resumed", request.param, folder / "some.safetensors", 2),
        "again": make_job(
            folder,
            "again",
            request.param,
            folder / "some.safetensors",
            save_every=4,
            trajectory_every=1,
        ),
        "dense": make_job(
            folder, "dense", request.param, folder / "some.safetensors", optimiser_state="dense"
        ),
    }
    jobs["less memory"] = make_job(
        folder, "less memory", request.param, folder / "some.safetensors", machine=LESS_MEMORY
    )
    jobs["lora"] = make_job(folder, "lora", request.param, lora_rank=2, save_every=4)
    launch(folder, jobs)
    return folder, kinds


def test_a_mask_of_ones_is_plain_adamw_bit_for_bit(trained):
    folder, _ = trained
    full, ones = master_weights(folder, STEPS, "full"), master_weights(folder, STEPS, "ones")
    init = load_file(folder / "init" / "model.safetensors")
    for name, before in init.items():
        assert torch.equal(full[name], ones[name]), name
        assert not torch.equal(full[name], before.float()), name
    for key in ("loss", "grad_norm", "lr"):
        assert [row[key] for row in log(folder, "full")] == [
            row[key] for row in log(folder, "ones")
        ]


def test_nothing_outside_the_mask_moves_and_all_inside_does(trained):
    folder, kinds = trained
    after = master_weights(folder, STEPS, "some")
    for name, before in load_file(folder / "init" / "model.safetensors").items():
        inside = torch.from_numpy(kinds["some"][name])
        moved = after[name].view(torch.int32) != before.float().view(torch.int32)
        assert not moved[~inside].any(), name
        if inside.any() and "embed" not in name:
            assert moved[inside].float().mean() > 0.9, name


def test_the_masked_gradient_is_what_is_measured_and_clipped(trained):
    """Within 30 % of the entries the norm is smaller, from the first step on."""
    folder, _ = trained
    assert log(folder, "some")[0]["grad_norm"] < 0.8 * log(folder, "full")[0]["grad_norm"]


def test_the_learning_rate_logged_is_the_one_each_step_took(trained):
    folder, _ = trained
    rates = [row["lr"] for row in log(folder, "full")]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005])


def test_a_resumed_masked_run_ends_where_the_uninterrupted_one_does(trained):
    folder, _ = trained
    whole, resumed = master_weights(folder, STEPS, "some"), master_weights(folder, STEPS, "resumed")
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    again = log(folder, "resumed", attempt=2)
    assert [row["loss"] for row in again] == [row["loss"] for row in log(folder, "some")[2:]]


def test_the_same_run_again_is_the_same_bit_for_bit(trained):
    folder, _ = trained
    first, second = master_weights(folder, STEPS, "some"), master_weights(folder, STEPS, "again")
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for key in ("loss", "grad_norm", "margin"):
        assert [row[key] for row in log(folder, "some")] == [
            row[key] for row in log(folder, "again")
        ]


def test_activations_computed_again_and_weights_laid_aside_give_the_same_bits(trained):
    folder, _ = trained
    first, second = (master_weights(folder, STEPS, name) for name in ("some", "less memory"))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_adapters_are_trained_alone_and_merged_into_the_end(trained, tmp_path):
    folder, _ = trained
    last, output = folder / "lora" / f"global_step_{STEPS}", tmp_path / "checkpoint"
    finish.write_checkpoint(last, folder / "init", output, None, lora=(2, 16))
    saved = master_weights(folder, STEPS, "lora")
    end = load_file(output / "model.safetensors")
    moved = 0
    for name, before in load_file(folder / "init" / "model.safetensors").items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.default.weight" not in saved:
            assert torch.equal(end[name], before), name
            continue
        a, b = (saved[f"{module}.lora_{x}.default.weight"] for x in "AB")
        assert torch.equal(saved[f"{module}.base_layer.weight"], before.float())
        merged = before.float() + 16 / 2 * (b @ a)
        assert (end[name].float() - merged).abs().max() <= merged.abs().max() / 128, name
        moved += int((end[name] != before).sum())
    assert moved
    sent = load_file(folder / "lora" / "sent.safetensors")
    assert sent.keys() == end.keys()
    for name, tensor in end.items():  # summed in another order, a weight may be rounded elsewhere
        torch.testing.assert_close(sent[name], tensor, rtol=2**-7, atol=1e-6)
    assert set(end) == set(load_file(folder / "init" / "model.safetensors"))


def test_the_trajectory_holds_every_steps_weights(trained, tmp_path):
    """Also of those whose saved states are gone; the last is the run's checkpoint."""
    folder, _ = trained
    run = folder / "again"
    assert set(state.saved_steps(run)) == {STEPS - 1, STEPS}
    trajectory.complete(run / "trajectory", 1, STEPS, "base")
    listed = json.loads((run / "trajectory" / "manifest.json").read_text())["steps"]
    assert [row["step"] for row in listed] == [1, 2, 3, 4]
    # Steps that the run without a trajectory saved too.
    for step in (2, 4):
        with checkpoints.open(run / "trajectory" / f"step_{step:06d}.safetensors") as delta:
            whole = saved_weights(folder / "some" / f"global_step_{step}")
            for name in delta.names:
                found = torch.from_numpy(delta[name].raw().view(numpy.int16))
                wanted = whole[name].to(torch.bfloat16).view(torch.int16).reshape(-1)
                assert torch.equal(found, wanted), name
    finish.write_checkpoint(run / f"global_step_{STEPS}", folder / "init", tmp_path / "end", None)
    with checkpoints.open(tmp_path / "end") as end:
        assert identity.digest(end) == masking.digest(
            run / "trajectory" / "step_000004.safetensors"
        )


def test_compact_and_dense_state_train_the_same_bit_for_bit(trained):
    folder, _ = trained
    compact, dense = master_weights(folder, STEPS, "some"), master_weights(folder, STEPS, "dense")
    for name in compact:
        assert torch.equal(compact[name], dense[name]), name
    assert [row["grad_norm"] for row in log(folder, "some")] == [
        row["grad_norm"] for row in log(folder, "dense")
    ]


def moments(folder, name):
    """All ranks' saved moments by parameter's number and kind, flat, each a list of the ranks'."""
    step = folder / name / f"global_step_{STEPS}"
    found = {}
    for file in sorted(step.glob("optim_world_size_*_rank_*.pt")):
        saved = torch.load(file, weights_only=False)
        for number, values in saved["state"].items():
            for kind in ("exp_avg", "exp_avg_sq"):
                value = values[kind]
                value = value.to_local() if hasattr(value, "to_local") else value
                found.setdefault((number, kind), []).append(value.reshape(-1))
    return found


def test_the_saved_compact_state_is_the_dense_one_inside_the_mask(trained):
    folder, kinds = trained
    compact, dense = moments(folder, "some"), moments(folder, "dense")
    assert compact.keys() == dense.keys()
    for key, parts in compact.items():
        for mine, all_of_it in zip(parts, dense[key], strict=True):
            assert torch.equal(mine[mine != 0], all_of_it[all_of_it != 0])
    entries = sum(part.numel() for parts in compact.values() for part in parts)
    assert entries == 2 * sum(int(mask.sum()) for mask in kinds["some"].values())


def test_the_saved_steps_are_recognised_as_whole(trained):
    folder, _ = trained
    steps = state.saved_steps(folder / "full")
    assert set(steps) == {2, 4}
    assert all(state.whole(path) for path in steps.values())


def test_the_checkpoint_is_bf16_and_the_inits_own_outside_the_mask(trained, tmp_path):
    folder, kinds = trained
    last = folder / "some" / f"global_step_{STEPS}"
    output = tmp_path / "checkpoint"
    finish.write_checkpoint(last, folder / "init", output, folder / "some.safetensors")
    init = load_file(folder / "init" / "model.safetensors")
    end = load_file(output / "model.safetensors")
    masters = master_weights(folder, STEPS, "some")
    assert list(end) == list(init)
    for name, before in init.items():
        inside = torch.from_numpy(kinds["some"][name])
        assert end[name].dtype == torch.bfloat16
        assert torch.equal(end[name], masters[name].to(torch.bfloat16))
        assert torch.equal(end[name][~inside], before[~inside])
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(output).chat_template
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    assert {file["sha256"] for file in _manifest(output)["files"].values()}


def test_a_checkpoint_in_float32_is_as_it_was_trained(trained, tmp_path):
    folder, kinds = trained
    last, output = folder / "some" / f"global_step_{STEPS}", tmp_path / "checkpoint"
    mask = folder / "some.safetensors"
    finish.write_checkpoint(last, folder / "init", output, mask, "float32")
    init = load_file(folder / "init" / "model.safetensors")
    end = load_file(output / "model.safetensors")
    masters = master_weights(folder, STEPS, "some")
    for name, before in init.items():
        inside = torch.from_numpy(kinds["some"][name])
        assert end[name].dtype == torch.float32
        assert torch.equal(end[name], masters[name])
        assert torch.equal(end[name][~inside], before[~inside].float())
    assert json.loads((output / "config.json").read_text())["dtype"] == "float32"


def test_a_checkpoint_that_left_its_mask_is_never_written(trained, tmp_path):
    folder, _ = trained
    last = folder / "full" / f"global_step_{STEPS}"
    with pytest.raises(RuntimeError, match="entries outside"):
        finish.write_checkpoint(
            last, folder / "init", tmp_path / "checkpoint", folder / "some.safetensors"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverged_gives_no_checkpoint(trained, tmp_path):
    folder, _ = trained
    last = tmp_path / f"global_step_{STEPS}"
    shutil.copytree(folder / "full" / last.name, last)
    (file,) = state.shards(last).glob("model_world_size_*_rank_0.pt")
    weights = torch.load(file, weights_only=False)
    name = sorted(weights)[-1]
    spoiled = getattr(weights[name], "_local_tensor", weights[name])
    spoiled.view(-1)[1] = torch.nan
    torch.save(weights, file)
    with pytest.raises(UserError, match=f"tensor '{name}': 1 of .* are NaN or infinite: the run"):
        finish.write_checkpoint(last, folder / "init", tmp_path / "checkpoint", None)
    assert not (tmp_path / "checkpoint").exists()


def test_a_value_models_head_is_trained_whole_within_a_language_models_mask(tmp_path):
    from subnetworks.training.engine.masked import _sharded_masks

    module = torch.nn.ModuleDict(
        {"model": torch.nn.Linear(3, 2, bias=False), "score": torch.nn.Linear(2, 1, bias=False)}
    )
    inside = numpy.array([[True, False, True], [False, False, True]])
    # The language model's own head is none of the value model's.
    arrays = {"model.weight": inside, "lm_head.weight": numpy.ones((4, 2), bool)}
    masks.write(tmp_path / "mask", arrays, rule="test")
    found = dict(_sharded_masks(module, str(tmp_path / "mask")))
    assert torch.equal(found[module["model"].weight], torch.from_numpy(inside))
    assert found[module["score"].weight] is None


def _manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("tied", [True, False])
def test_the_sampler_gets_a_tied_tensor_by_one_name(tied):
    """vLLM refuses a tied tensor's further name in another part than its first."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from subnetworks.training.engine import masked

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            tie_word_embeddings=tied,
        )
    )

    class Base:
        def get_per_tensor_param(self):
            return iter(model.state_dict().items()), None

    class Engine(masked.MaskedEngineMixin, Base):
        module, engine_config = model, SimpleNamespace(mixed_precision=None)

    names = [name for name, _ in Engine().get_per_tensor_param()[0]]
    assert names.count("model.embed_tokens.weight") == 1
    assert ("lm_head.weight" in names) is not tied
