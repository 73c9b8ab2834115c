"""On-policy runs of adapters (LoRA): what is sampled, compared with, saved and resumed."""

import hashlib
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("vllm")

from online_tiny import log, make, run, run_again, weights  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import trained_by  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from verl.workers.engine.fsdp import FSDPEngineWithLMHead  # noqa: E402

from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.training.engine.masked import MaskedEngineMixin  # noqa: E402

STEPS, RANK, ALPHA = 4, 2, 8
GRPO = {
    "algorithm": "grpo",
    "steps": STEPS,
    "save_every": 2,
    "batch_size": 4,
    "samples_per_prompt": 4,
    "learning_rate": 1e-2,
    "max_prompt_length": 16,
    "max_response_length": 8,
    "reward": "random",  # the tiny model knows nothing, so no answer is right
    "kl": "loss",
    "kl_coef": 0.1,
    "lora_rank": RANK,
    "lora_alpha": ALPHA,
    "save_dtype": "float32",
}
BESIDE = {
    "ppo": ("critic", {"kl": "reward", "critic_learning_rate": 1e-3}),
    "prime": ("reward_model", {"reward_learning_rate": 1e-3}),
}
EMULATED = {"bfloat16": "emulated"}
LAYER = "base_model.model.{}.lora_{}.default.weight"


class Engine(MaskedEngineMixin, FSDPEngineWithLMHead):
    """The policy's engine, of which only adapters are built here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def init(folder):
    return load_file(folder / "init/model.safetensors")


def digest(folder, name):
    return hashlib.sha256((folder / f"{name}_end/model.safetensors").read_bytes()).hexdigest()


def merged(init, saved):
    """The init with a saved step's adapters, in float32, by the definition of LoRA."""
    found = {name: before.float() for name, before in init.items()}
    for name in found:
        module = name.removesuffix(".weight")
        if LAYER.format(module, "A") in saved:
            a, b = (saved[LAYER.format(module, side)] for side in "AB")
            found[name] = found[name] + ALPHA / RANK * (b @ a)
    return found


@pytest.fixture(scope="module")
def grpo(folder):
    with pytest.MonkeyPatch.context() as patch:
        trained_by(patch, "online_sent", {"SENT": str(folder)})
        run(folder, "grpo", GRPO, **EMULATED)
    return folder


def test_the_end_is_the_init_with_an_update_of_the_adapters_rank(grpo, init):
    saved, end = weights(grpo, "grpo", STEPS), load_file(grpo / "grpo_end/model.safetensors")
    wanted = merged(init, saved)
    adapted = 0
    for name, before in init.items():
        assert end[name].dtype == torch.float32
        torch.testing.assert_close(end[name], wanted[name], rtol=1e-6, atol=1e-7)
        update = end[name].double() - before.double()
        if not name.endswith("_proj.weight"):
            assert not update.any(), name  # embedding, head, norms and biases
            continue
        adapted += 1
        values = torch.linalg.svdvals(update)
        # What is beyond the rank is how float32 rounds the sum.
        assert values[RANK - 1] > 1e-4 > 1e-6 > values[RANK], name
        base = saved[f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight"]
        assert torch.equal(base, before.float()), name
    assert adapted == 2 * 7


def test_the_sampler_has_the_weights_that_an_end_there_would_have(grpo, init):
    """At first the init's own bits; then the merged weights, in the bf16 that the run computes in:
    never those without the adapters."""
    first = load_file(grpo / "sent_0.safetensors")
    assert first.keys() == init.keys()
    for name, before in init.items():
        assert torch.equal(first[name].view(torch.int16), before.view(torch.int16)), name
    sent = load_file(grpo / "sent_2.safetensors")
    for name, wanted in merged(init, weights(grpo, "grpo", 2)).items():
        assert sent[name].dtype == torch.bfloat16
        # The order in which a product is summed may decide how a weight is rounded.
        assert (sent[name] == wanted.bfloat16()).float().mean() > 0.999, name
        torch.testing.assert_close(sent[name].float(), wanted, rtol=2**-7, atol=1e-6)
        if name.endswith("_proj.weight"):
            assert (sent[name] != init[name]).float().mean() > 0.1, name


def test_training_starts_at_the_init_and_is_compared_with_it(grpo):
    kl = [float(row["kl"]) for row in log(grpo, "grpo")]
    assert kl[0] == 0 < min(kl[1:])


def test_a_resumed_run_ends_in_the_same_bits(grpo):
    assert run_again(grpo, "grpo", GRPO, **EMULATED) == 2
    assert digest(grpo, "resumed") == digest(grpo, "grpo")
    assert log(grpo, "resumed") == log(grpo, "grpo")


def test_adapters_are_drawn_from_the_runs_seed_alone(folder):
    def drawn(seed):
        torch.rand(3)  # whatever else draws in the process
        engine = object.__new__(Engine)
        engine.model_config = SimpleNamespace(
            lora={"seed": seed},
            lora_rank=RANK,
            lora_alpha=ALPHA,
            target_modules="all-linear",
            target_parameters=None,
            exclude_modules=None,
        )
        model = AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)
        before = torch.get_rng_state()
        built = engine._build_lora_module(model)
        assert torch.equal(torch.get_rng_state(), before)
        return {n: p.detach() for n, p in built.named_parameters() if ".lora_" in n}

    first, again, other = drawn(0), drawn(0), drawn(1)
    for name, values in first.items():
        assert torch.equal(values, again[name]), name
        assert torch.equal(values, other[name]) == (".lora_B." in name), name
        assert values.any() == (".lora_A." in name), name


@pytest.mark.parametrize("algorithm", BESIDE)
def test_a_model_beside_the_policy_has_no_adapters(algorithm, folder, init):
    model, more = BESIDE[algorithm]
    run(folder, algorithm, {**GRPO, "steps": 2, "algorithm": algorithm, **more}, **EMULATED)
    policy, second = (weights(folder, algorithm, 2, name) for name in ("actor", model))
    wanted, end = merged(init, policy), load_file(folder / f"{algorithm}_end/model.safetensors")
    assert not any(".lora_" in name for name in second)
    for name, before in init.items():
        torch.testing.assert_close(end[name], wanted[name], rtol=1e-6, atol=1e-7)
        if name.endswith("_proj.weight"):
            assert (end[name] != before).any(), name
            assert (second[name] != before).float().mean() > 0.9, name
    kl = [float(row["kl"]) for row in log(folder, algorithm)]
    assert kl[0] == 0 != kl[1]


def test_a_mask_is_refused_before_anything_starts(folder):
    with pytest.raises(UserError, match=r"lora_rank \(2\) and a mask exclude each other"):
        run(folder, "masked", GRPO, folder / "mask.safetensors", **EMULATED)
    assert not (folder / "masked").exists()
