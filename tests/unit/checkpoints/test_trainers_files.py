"""What trainers save beside and around a model: the model's part is read, by torch's own files."""

import json

import numpy as np
import pytest

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from checkpoints_made import bf16, llama, save, updated  # noqa: E402

from subnetworks import checkpoints  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.measuring import updates  # noqa: E402
from subnetworks.measuring.updates.stored import coverage_of  # noqa: E402


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    before = llama(rng)
    return before, updated(before, rng)


def as_torch(tensors):
    return {
        name: torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
        for name, (_, bits) in tensors.items()
    }


def optimiser(state):
    moments = {k: {"step": torch.tensor(1.0), "exp_avg": t} for k, t in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 1e-6, "params": list(moments)}]}


def deepspeed(state):
    """What DeepSpeed's stages 1 and 2 save of the model."""
    return {
        "module": state,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{name: tensor.shape for name, tensor in state.items()}],
        "frozen_param_shapes": None,
        "lr_scheduler": {"last_epoch": 3, "_last_lr": [1e-6]},
        "data_sampler": None,
        "global_steps": 3,
        "dp_world_size": 2,
        "ds_config": {"train_batch_size": 8, "zero_optimization": {"stage": 2}},
        "ds_version": "0.16.0",
    }


SAVED = {
    "model.pt": lambda s: s,
    "model.bin": lambda s: {"model": s, "epoch": 3},
    "step.pth": lambda s: {"model": s, "optimizer": optimiser(s), "step": 7, "loss": 0.5},
    "rng.pt": lambda s: {"model": s, "rng_state": torch.get_rng_state(), "step": torch.tensor(7)},
    "module.pt": lambda s: {"module": s, "lr_scheduler": {"last_lr": torch.ones(1)}},
    "lightning.ckpt": lambda s: {
        "epoch": 0,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in s.items()},
        "optimizer_states": [optimiser(s)],
        "lr_schedulers": [{"last_epoch": 1}],
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    },
    "global_step3/mp_rank_00_model_states.pt": deepspeed,
    "parameters.pt": lambda s: {name: torch.nn.Parameter(tensor) for name, tensor in s.items()},
}


@pytest.mark.parametrize("name", SAVED)
def test_the_model_is_found_in_what_was_saved(pair, tmp_path, name):
    save(tmp_path / "before/model.safetensors", pair[0])
    path = tmp_path / "after" / name
    path.parent.mkdir(parents=True)
    torch.save(SAVED[name](as_torch(pair[1])), path)
    place = path
    if "mp_rank" in name:  # beside the optimiser's shards, by the folder of the run
        place = tmp_path / "after"
        torch.save({}, path.with_name("zero_pp_rank_0_mp_rank_00_optim_states.pt"))
        (place / "latest").write_text("global_step3")
        (place / "zero_to_fp32.py").write_text("#")
    found = updates.summarise(updates.measure(tmp_path / "before", place))
    same = sum(int((pair[0][n][1] == pair[1][n][1]).sum()) for n in pair[0])
    n = sum(bits.size for _, bits in pair[0].values())
    assert (found["bit_equal"], found["n"], found["compared_share"]) == (same, n, 1)


@pytest.mark.parametrize(
    "more",
    [
        lambda s: {"ema": s},
        lambda s: {"teacher": s},
        lambda s: {"lm_head.weight": s["lm_head.weight"]},
    ],
)
def test_of_several_models_none_is_chosen(pair, tmp_path, more):
    state = as_torch(pair[1])
    torch.save({"model": state, **more(state)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="more than one that may be the state dict"):
        checkpoints.open(tmp_path / "model.pt")


def test_modelopt_says_beside_the_configuration_how_weights_are_quantised(tmp_path):
    stem = "model.layers.0.mlp.down_proj.weight"
    for name, algorithm in (("fp8", "FP8"), ("fp4", "NVFP4")):
        codes = np.full((4, 32), 0x38, np.uint8)
        tensors = {stem: ("F8_E4M3" if name == "fp8" else "U8", codes)}
        tensors[f"{stem}_scale"] = "F32", np.array([1, 2], np.float32)[:1].view(np.uint32)
        if name == "fp4":
            scale = np.full((4, 4), 0x38, np.uint8)
            tensors |= {
                f"{stem}_scale": ("F8_E4M3", scale),
                f"{stem}_scale_2": tensors[f"{stem}_scale"],
            }
        save(tmp_path / name / "model.safetensors", tensors)
        (tmp_path / name / "config.json").write_text("{}")
        said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}}
        (tmp_path / name / "hf_quant_config.json").write_text(json.dumps(said))
    save(tmp_path / "plain/model.safetensors", {stem: bf16(np.ones((4, 32)))})
    found = updates.summarise(updates.measure(tmp_path / "plain", tmp_path / "fp8"))
    assert (found["bit_equal"], found["n"]) == (128, 128)
    with checkpoints.open(tmp_path / "fp8") as opened:
        assert opened.config["quantization_config"]["quant_method"] == "modelopt"
    with pytest.raises(UserError, match=r"down_proj.weight'.*modelopt"):
        updates.measure(tmp_path / "plain", tmp_path / "fp4")


def test_a_delta_holds_no_tensor_of_an_unknown_dtype(pair, tmp_path):
    save(tmp_path / "before/model.safetensors", pair[0])
    state = as_torch(pair[1]) | {"freqs": torch.zeros(3, dtype=torch.complex64)}
    torch.save(state, tmp_path / "after.pt")
    with (
        checkpoints.open(tmp_path / "before") as before,
        checkpoints.open(tmp_path / "after.pt") as after,
        pytest.raises(UserError, match=r"tensor 'freqs'.*no delta can hold it"),
    ):
        coverage_of(before, after, allow_partial=True)
