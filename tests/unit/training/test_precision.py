"""What a run computes in: native bf16, bf16 weights in float32, or float32."""

import dataclasses
import os
import subprocess
import sys

import pytest

from subnetworks.core import engines, precision, processor

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import tiny  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import launch, log, make_init, make_pairs, master_weights  # noqa: E402

from subnetworks.training.data import examples  # noqa: E402
from subnetworks.training.data.conversations import epochs, load_tokenizer  # noqa: E402
from subnetworks.training.runtime import online  # noqa: E402
from subnetworks.training.settings import parse_accelerator  # noqa: E402

STEPS = 3
SETTINGS = {
    "algorithm": "dpo",
    "steps": STEPS,
    "batch_size": 4,
    "micro_batch_size": 4,
    # Large enough that rounding the weights to bf16 matters to the loss, and to its gradients.
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "save_every": 1,
}
KINDS = {
    "native": ("bfloat16", "native"),
    "emulated": ("bfloat16", "emulated"),
    "float32": ("float32", "auto"),
}


def make_job(folder, name, kind, ranks=1, **changes):
    compute_dtype, bfloat16 = KINDS[kind]
    settings = {**SETTINGS, "compute_dtype": compute_dtype, **changes}
    return tiny.make_job(folder, name, settings, ranks, bfloat16=bfloat16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    make_init(folder / "init")
    make_pairs(folder / "data")
    jobs = {kind: make_job(folder, kind, kind) for kind in KINDS}
    jobs |= {
        f"{kind}, first": make_job(folder, f"{kind}, first", kind, steps=1)
        for kind in ("emulated", "float32")
    }
    launch(folder, jobs)
    launch(folder, {"two ranks": make_job(folder, "two ranks", "emulated", ranks=2)})
    return folder


def plain(folder, weights_dtype):
    """The same run by torch alone: AdamW on float32 weights, the model on those rounded."""
    from transformers import AutoModelForCausalLM

    order = epochs(12, SETTINGS["batch_size"], STEPS, 0)
    pairs = examples.read_pairs(
        folder / "data" / "train.parquet", load_tokenizer(folder / "init"), 2048, "error"
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)
    masters = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(
        [torch.nn.Parameter(value) for value in masters.values()],
        lr=SETTINGS["learning_rate"],
        weight_decay=SETTINGS["weight_decay"],
        betas=(0.9, 0.999),
    )
    parameters = dict(zip(masters, optimiser.param_groups[0]["params"], strict=True))

    def answer(ids, scored):
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        picked = logs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return (picked * torch.tensor(scored[1:])).sum()

    with torch.no_grad():
        reference = [[answer(*sequence) for sequence in pair] for pair in pairs]
    losses = []
    for rows in order:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(parameters[name].to(weights_dtype))
                value.grad = None
        terms = []
        for row in rows:
            chosen, rejected = (answer(*sequence) for sequence in pairs[row])
            margin = (chosen - reference[row][0]) - (rejected - reference[row][1])
            terms.append(-torch.nn.functional.logsigmoid(0.1 * margin))
        loss = torch.stack(terms).mean()
        loss.backward()
        losses.append(loss.item())
        for name, value in model.named_parameters():
            parameters[name].grad = value.grad
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
    return {name: p.detach() for name, p in parameters.items()}, losses


@pytest.mark.parametrize("kind", ["emulated", "float32"])
def test_forward_and_backward_see_the_weights_as_asked_and_the_optimiser_its_own(trained, kind):
    """Against torch alone; the other kind of run ends elsewhere."""
    dtypes = {"emulated": torch.bfloat16, "float32": torch.float32}
    ends, losses = plain(trained, dtypes.pop(kind))
    others, _ = plain(trained, *dtypes.values())
    found = master_weights(trained, STEPS, kind)
    logged = [row["loss"] for row in log(trained, kind)]
    assert logged == pytest.approx(losses, abs=2e-6)
    apart = sum(float((found[name] - ends[name]).abs().sum()) for name in ends)
    elsewhere = sum(float((found[name] - others[name]).abs().sum()) for name in ends)
    assert apart < elsewhere / 20


def test_weights_stay_float32_between_steps(trained):
    """What a movement below bf16's step adds is kept, though the forward pass does not see it."""
    for name, after in master_weights(trained, STEPS, "emulated").items():
        if "embed" not in name:
            assert (after != after.bfloat16()).float().mean() > 0.9, name


@pytest.mark.parametrize("kind", [*KINDS, "two ranks"])
def test_a_sampler_is_sent_what_the_trainer_sees(trained, kind):
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    sent = load_file(trained / kind / "sent.safetensors")
    masters = master_weights(trained, STEPS, kind)
    assert sent.keys() == masters.keys()
    for name, master in masters.items():
        assert sent[name].dtype == dtype
        assert torch.equal(sent[name], master.to(dtype)), name


def test_the_first_step_from_a_bf16_init_is_that_of_float32(trained):
    """Rounding does nothing to weights that are bf16."""
    emulated, whole = (
        master_weights(trained, 1, f"{kind}, first") for kind in ("emulated", "float32")
    )
    assert all(torch.equal(emulated[name], whole[name]) for name in whole)
    emulated, whole = (master_weights(trained, STEPS, kind) for kind in ("emulated", "float32"))
    assert any(not torch.equal(emulated[name], whole[name]) for name in whole)


def test_native_and_emulated_bf16_agree(trained):
    """Up to the rounding of activations: a bf16 product has three digits."""
    native, emulated = (
        [row["loss"] for row in log(trained, kind)] for kind in ("native", "emulated")
    )
    assert native == pytest.approx(emulated, abs=2e-3)


def test_two_ranks_round_as_one(trained):
    one, two = (log(trained, kind) for kind in ("emulated", "two ranks"))
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], abs=1e-6)


@pytest.mark.parametrize(
    ("compute_dtype", "machine", "arithmetic"),
    [
        ("bfloat16", {"kind": "cuda"}, ("bfloat16", "bfloat16")),
        ("bfloat16", {"kind": "cpu", "bfloat16": "native"}, ("bfloat16", "bfloat16")),
        ("bfloat16", {"kind": "cpu", "bfloat16": "emulated"}, ("bfloat16", "float32")),
        ("float32", {"kind": "cpu", "bfloat16": "native"}, ("float32", "float32")),
        ("float32", {"kind": "cuda"}, ("float32", "float32")),
    ],
)
def test_trainer_reference_critic_and_sampler_are_given_the_same(
    tmp_path, compute_dtype, machine, arithmetic
):
    """verl's own configuration takes it, for every model of a run."""
    make_init(tmp_path / "init")
    settings = {
        "algorithm": "ppo",
        "steps": 1,
        "learning_rate": 1e-5,
        "compute_dtype": compute_dtype,
    }
    job = dataclasses.replace(
        tiny.make_job(tmp_path, "run", settings), machine=parse_accelerator(machine)
    )
    weights, products = arithmetic
    assert dataclasses.astuple(job.arithmetic) == arithmetic
    short = {"bfloat16": "bf16", "float32": "fp32"}[products]
    section = {"param_dtype": short, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    section["weights"] = weights
    given = online.options(job)
    for key in (
        "actor_rollout_ref.actor.fsdp_config",
        "actor_rollout_ref.ref.fsdp_config",
        "critic.fsdp",
    ):
        assert given[f"+{key}.mixed_precision"] == section
    assert given["actor_rollout_ref.rollout.dtype"] == products


def test_the_processor_decides_unless_told(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for flags, native in (
        ({"avx2", "fma"}, False),
        ({"avx2", "avx512f", "avx512bw"}, False),
        ({"avx512f", "avx512_bf16"}, True),
        ({"amx_bf16"}, True),
        ({"asimd", "bf16"}, True),
        (set(), False),
    ):
        monkeypatch.setattr(processor, "flags", lambda flags=flags: frozenset(flags))
        assert processor.has_bfloat16() == native
        products = "bfloat16" if native else "float32"
        assert precision.of_training("bfloat16", "cpu").products == products
        assert precision.of_serving("cpu") == products
        assert precision.of_serving("cuda") == "bfloat16"
        assert precision.of_serving("cpu", "native") == "bfloat16"
        assert precision.of_serving("cpu", "emulated") == "float32"


def test_onednn_may_be_kept_from_bf16(monkeypatch):
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"amx_bf16", "avx512_bf16"}))
    for limit, native in (("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert processor.has_bfloat16() == native


def test_a_processor_has_a_name():
    assert processor.name().strip()


# Four tokens of 64, two of which the compiled code never draws.
DRAWN = """
import torch
from subnetworks.core.engines import leave_out_compiler
if {leave_out}:
    leave_out_compiler()
from vllm.v1.sample.ops.topk_topp_sampler import compiled_random_sample
torch.manual_seed(0)
logits = torch.full((4096, 64), -30.0)
logits[:, [3, 10, 32, 63]] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
drawn = torch.bincount(compiled_random_sample(logits), minlength=64) / 4096
assert (drawn[[3, 10, 32, 63]] - torch.tensor([0.4, 0.3, 0.2, 0.1])).abs().max() < 0.03, drawn
"""


@pytest.mark.parametrize("by", ["variable", "call"])
def test_vllm_draws_every_token_where_there_is_only_avx2(by):
    """As for requests without a seed; four standard deviations are 0.03."""
    pytest.importorskip("vllm")
    variables = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    if by == "variable":
        variables |= engines.ON_CPU
    code = DRAWN.format(leave_out=by == "call")
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]
