"""What is asked of verl, read back through verl's own configuration."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("verl")
hydra = pytest.importorskip("hydra")

from omegaconf import OmegaConf  # noqa: E402

from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.training.runtime import nodes, online, preference, sft, verl_options  # noqa: E402
from subnetworks.training.runtime.job import Job, environment  # noqa: E402
from subnetworks.training.settings import check_devices, parse_accelerator, parse_settings  # noqa: E402

BASE = {"steps": 40, "batch_size": 16, "learning_rate": 3e-6, "seed": 7, "warmup_steps": 4}


def job(
    algorithm, kind, resume=0, mask="/mask 'it', = {x}.safetensors", nodes=1, machine=None, **more
):
    return Job(
        settings=parse_settings({"algorithm": algorithm, **BASE, **more}),
        machine=parse_accelerator({"kind": kind, "devices": 2, "nodes": nodes, **(machine or {})}),
        init=Path("/init"),
        data=Path("/data"),
        mask=Path(mask) if mask else None,
        state=Path("/run/state"),
        scratch=Path("/tmp/scratch"),
        steps_log=Path("/run/state/steps.jsonl"),
        resume=resume,
        shapes={"embed_tokens.weight": (100 << 20,)},
    )


def composed(asked, trainer, name, folder):
    """verl's configuration with what the trainer's file asks of it, and the trainer's command.

    A name that is not marked as ours must be one of verl's.
    """
    asked = dataclasses.replace(asked, state=folder)
    command = trainer.command(asked)
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        own = hydra.compose(name)
    for key in trainer.options(asked):
        place = OmegaConf.to_container(own)
        for part in key.split(".") if not key.startswith("+") else ():
            assert part in place, key
            place = place[part]
    assert command.arguments[-1] == str(folder / verl_options.FILE)
    return verl_options.load(name, command.arguments[-1])


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_online_run_is_told_to_verl_in_its_own_words(kind, tmp_path):
    more = {"samples_per_prompt": 4, "kl": "loss", "kl_coef": 0.04, "max_grad_norm": 0}
    asked = job("grpo", kind, **more)
    config = composed(asked, online, "ppo_trainer", tmp_path)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.algorithm.adv_estimator == "grpo"
    assert (config.data.train_batch_size, rollout.n) == (16, 4)
    assert config.data.seed == rollout.seed == 7
    assert actor.optim.lr == 3e-6
    assert actor.optim.clip_grad >= 1e20
    assert (actor.use_kl_loss, actor.kl_loss_coef) == (True, 0.04)
    assert not config.algorithm.use_kl_in_reward
    own = OmegaConf.to_container(actor.optim.override_optimizer_config)["subnetworks"]
    assert own == {
        "mask": str(asked.mask),
        "optimiser_state": "compact",
        "master_weights": "float32",
        "seed": 7,
        "schedule": "constant",
        "warmup_steps": 4,
        "trajectory": None,
        "gradients": None,
    }
    assert config.trainer.total_training_steps == 40
    assert config.trainer.resume_mode == "disable"
    assert config.trainer.device == kind
    assert config.trainer.n_gpus_per_node == 2
    # The largest tensor (fp32) fits into the buffer through which weights reach vLLM.
    assert rollout.checkpoint_engine.update_weights_bucket_megabytes > 400


@pytest.mark.parametrize(("asked_for", "at_once"), [(None, 32), (12, 8), (5, 4), (1, 1)])
def test_a_devices_share_of_a_step_is_cut_evenly(asked_for, at_once, tmp_path):
    """64 sequences on two devices."""
    asked = job("grpo", "cpu", samples_per_prompt=4, micro_batch_size=asked_for)
    config = composed(asked, online, "ppo_trainer", tmp_path)
    assert config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu == at_once
    assert config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu == at_once


@pytest.mark.parametrize(
    ("asked_for", "mode", "factor", "divided"),
    [
        ({}, "token-mean", None, True),
        ({"loss_aggregation": "sequence_mean"}, "seq-mean-token-mean", None, True),
        ({"loss_aggregation": "dr_grpo"}, "seq-mean-token-sum-norm", 512, False),
    ],
)
def test_grpos_loss_is_the_mean_that_the_run_says(asked_for, mode, factor, divided, tmp_path):
    config = composed(job("grpo", "cpu", **asked_for), online, "ppo_trainer", tmp_path)
    actor = config.actor_rollout_ref.actor
    assert (actor.loss_agg_mode, actor.loss_scale_factor) == (mode, factor)
    assert config.algorithm.norm_adv_by_std_in_grpo is divided


LARGE = {
    "gradient_checkpointing": False,
    "offload_weights": True,
    "offload_optimiser": True,
    "tensor_parallel": 2,
    "tokens_at_once": 4096,
}


def test_what_larger_models_need_reaches_verl(tmp_path):
    config = composed(job("ppo", "cuda", machine=LARGE), online, "ppo_trainer", tmp_path)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert rollout.tensor_model_parallel_size == 2
    for engine in (actor.fsdp_config, config.critic.fsdp):
        assert (engine.param_offload, engine.optimizer_offload) == (True, True)
    assert not config.actor_rollout_ref.model.enable_gradient_checkpointing
    assert (actor.use_dynamic_bsz, actor.ppo_max_token_len_per_gpu) == (True, 4096)
    assert rollout.log_prob_use_dynamic_bsz is True
    assert rollout.log_prob_max_token_len_per_gpu == 4096
    assert config.critic.fsdp.infer_max_token_len_per_gpu == 4096

    config = composed(job("sft", "cuda", machine=LARGE), sft, "sft_trainer_engine", tmp_path)
    assert (config.engine.param_offload, config.engine.optimizer_offload) == (True, True)
    assert (config.data.use_dynamic_bsz, config.data.max_token_len_per_gpu) == (True, 4096)
    described = preference.described(job("dpo", "cuda", machine=LARGE, lora_rank=8))["verl"]
    assert described["engine"]["param_offload"] is True
    assert described["engine"]["use_dynamic_bsz"] is False
    assert described["model"]["lora_rank"] == 8


def test_a_sampler_is_shared_by_devices_there_are_and_the_longest_sequence_fits():
    with pytest.raises(UserError, match=r"tensor_parallel \(2\) must divide devices \(3\)"):
        parse_accelerator({"devices": 3, "tensor_parallel": 2})
    machine = parse_accelerator({"tokens_at_once": 1023})
    settings = parse_settings({"algorithm": "grpo", **BASE})
    with pytest.raises(UserError, match=r"tokens_at_once \(1023\) is less than .* \(1024 tokens\)"):
        check_devices(settings, machine)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "prime", "raft_plus_plus"])
def test_on_policy_adapters_are_the_policys_alone_and_merged_for_the_sampler(algorithm, tmp_path):
    asked = job(algorithm, "cuda", mask=None, lora_rank=8, lora_alpha=32)
    config = composed(asked, online, "ppo_trainer", tmp_path)
    model = config.actor_rollout_ref.model
    assert (model.lora_rank, model.lora_alpha, model.target_modules) == (8, 32, "all-linear")
    assert (model.lora.merge, model.lora.seed) == (True, 7)
    assert config.critic.model.lora_rank == 0
    without = composed(job(algorithm, "cuda"), online, "ppo_trainer", tmp_path)
    assert without.actor_rollout_ref.model.lora_rank == 0


@pytest.mark.parametrize("kl", ["none", "loss", "reward"])
def test_the_distance_from_the_init_enters_where_the_run_says(kl, tmp_path):
    more = {"kl": kl, "kl_coef": 0.04 if kl != "none" else 0}
    config = composed(job("ppo", "cpu", **more), online, "ppo_trainer", tmp_path)
    assert config.actor_rollout_ref.actor.use_kl_loss == (kl == "loss")
    assert config.algorithm.use_kl_in_reward == (kl == "reward")
    if kl == "reward":
        assert config.algorithm.kl_ctrl.kl_coef == 0.04


def test_a_critic_has_its_own_rate_the_policys_schedule_and_no_mask(tmp_path):
    more = {"critic_learning_rate": 1e-4, "lam": 0.95, "gamma": 0.99, "schedule": "linear"}
    config = composed(job("ppo", "cpu", **more), online, "ppo_trainer", tmp_path)
    assert (config.algorithm.adv_estimator, config.algorithm.lam) == ("gae", 0.95)
    assert config.algorithm.gamma == 0.99
    critic = config.critic
    assert (critic.strategy, critic.optim.lr, critic.fsdp.seed) == ("fsdp2", 1e-4, 7)
    own = OmegaConf.to_container(critic.optim.override_optimizer_config)["subnetworks"]
    assert (own["mask"], own["schedule"], own["warmup_steps"]) == (None, "linear", 4)
    assert config.actor_rollout_ref.actor.optim.override_optimizer_config.subnetworks.mask


def test_a_reward_model_has_its_own_rate_the_policys_schedule_and_no_mask(tmp_path):
    config = composed(job("prime", "cpu", beta=0.1), online, "ppo_trainer", tmp_path)
    assert config.trainer.v1.trainer_mode == "subnetworks_prime"
    model = config.actor_rollout_ref.reward_model
    assert (model.beta, model.optim.lr, model.optim.clip_grad) == (0.1, 1e-6, 10.0)
    merged = OmegaConf.merge(config.actor_rollout_ref.actor.optim, model.optim)
    own = OmegaConf.to_container(merged.override_optimizer_config)["subnetworks"]
    assert (own["mask"], own["schedule"], own["warmup_steps"]) == (None, "constant", 4)
    assert merged.total_training_steps == 40


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_supervised_run_is_told_to_verl_in_its_own_words(kind, tmp_path):
    asked = job("sft", kind, schedule="cosine", betas=[0.9, 0.95], resume=20)
    config = composed(asked, sft, "sft_trainer_engine", tmp_path)
    assert config.optim.betas == [0.9, 0.95]
    assert config.optim.override_optimizer_config.subnetworks.schedule == "cosine"
    assert config.trainer.seed == 7
    assert config.trainer.resume_mode == "resume_path"
    assert config.trainer.resume_from_path == str(tmp_path / "global_step_20")
    assert config.trainer.device == kind


def test_over_two_nodes_torch_starts_by_srun_and_ray_is_told_of_both(tmp_path):
    asked = dataclasses.replace(job("sft", "cuda", nodes=2), state=tmp_path)
    command = sft.command(asked).arguments
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert {"--nnodes=2", "--nproc_per_node=2", "--rdzv_backend=c10d"} <= set(command)
    assert "--standalone" not in command
    config = composed(job("grpo", "cuda", nodes=2), online, "ppo_trainer", tmp_path)
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (2, 2)
    assert config.subnetworks.nodes == 2


def test_several_nodes_without_an_allocation_are_refused_in_plain_words(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"allocation.*profiles/slurm"):
        nodes.check()


def test_only_the_platform_differs_between_machines():
    cpu, cuda = (environment(job("sft", kind)) for kind in ("cpu", "cuda"))
    assert set(cpu) - set(cuda) == {"VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES"}
    assert set(cuda) <= set(cpu)


def test_two_runs_on_one_machine_share_no_secret_and_no_socket():
    first, second = (environment(job("grpo", "cpu")) for _ in range(2))
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert first["SUBNETWORKS_SOCKETS"] == "/tmp/scratch"


ACTOR = "actor_rollout_ref.actor"
HOSTILE = ["plain", "it's", "a,b", "back\\slash", "{a: 1}", "", "1e-6", "null", "${x}", "a\n b"]


@pytest.mark.parametrize("value", [*HOSTILE, 3e-6, 1e30, None, True, [0.9, 0.999]])
def test_any_value_survives_verls_file(value, tmp_path):
    asked = dataclasses.replace(job("sft", "cpu"), state=tmp_path)
    file = verl_options.write(asked, {"+a.key": value})
    found = verl_options.load("sft_trainer_engine", str(file)).a
    assert OmegaConf.to_container(found, resolve=True)["key"] == value


def test_further_options_reach_verl_as_they_are(tmp_path):
    further = {"trainer": {"test_freq": -1}, "data.ignore_input_ids_mismatch": True}
    config = composed(job("sft", "cpu", verl=further), sft, "sft_trainer_engine", tmp_path)
    assert config.data.ignore_input_ids_mismatch is True
    rollout = "actor_rollout_ref.rollout.engine_kwargs.vllm.block_size"
    asked = job("grpo", "cpu", verl={rollout: 32})
    config = composed(asked, online, "ppo_trainer", tmp_path)
    assert config.actor_rollout_ref.rollout.engine_kwargs.vllm.block_size == 32
    described = preference.described(job("dpo", "cpu", verl={"engine": {"offload_policy": True}}))
    assert described["verl"]["engine"]["offload_policy"] is True
    assert described["settings"]["verl"] == {"engine": {"offload_policy": True}}


@pytest.mark.parametrize(
    ("algorithm", "further"),
    [
        ("sft", {"optim": {"lr": 1.0}}),
        ("sft", {"optim.override_optimizer_config": None}),
        (
            "grpo",
            {f"{ACTOR}.optim.override_optimizer_config.subnetworks.mask": None},
        ),
        ("grpo", {"actor_rollout_ref": {"rollout": {"n": 8}}}),
    ],
)
def test_a_further_option_that_contradicts_the_run_is_refused(algorithm, further, tmp_path):
    trainer = {"sft": sft, "grpo": online}[algorithm]
    asked = dataclasses.replace(job(algorithm, "cpu", verl=further), state=tmp_path)
    with pytest.raises(UserError, match="is set by the run itself"):
        trainer.command(asked)
