"""What is asked of verl, read back through verl's own configuration."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("verl")
hydra = pytest.importorskip("hydra")

from omegaconf import OmegaConf  # noqa: E402

from subnetworks.errors import UserError  # noqa: E402
from subnetworks.training import nodes, online, sft  # noqa: E402
from subnetworks.training.job import Job, environment, override  # noqa: E402
from subnetworks.training.settings import parse_accelerator, parse_settings  # noqa: E402

BASE = {"steps": 40, "batch_size": 16, "learning_rate": 3e-6, "seed": 7, "warmup_steps": 4}


def job(algorithm, kind, resume=0, mask="/mask 'it', = {x}.safetensors", nodes=1, **more):
    return Job(
        settings=parse_settings({"algorithm": algorithm, **BASE, **more}),
        machine=parse_accelerator({"kind": kind, "devices": 2, "nodes": nodes}),
        init=Path("/init"),
        data=Path("/data"),
        mask=Path(mask) if mask else None,
        state=Path("/run/state"),
        scratch=Path("/tmp/scratch"),
        steps_log=Path("/run/state/steps.jsonl"),
        resume=resume,
        largest_tensor=100 << 20,
    )


def composed(command, name):
    """verl's configuration with the command's overrides; an unknown key is an error."""
    overrides = [item for item in command.arguments if "=" in item and not item.startswith("--")]
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(name, overrides=overrides)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_online_run_is_told_to_verl_in_its_own_words(kind):
    more = {"samples_per_prompt": 4, "kl": "loss", "kl_coefficient": 0.04, "clip_gradient": 0}
    asked = job("grpo", kind, **more)
    config = composed(online.command(asked), "ppo_trainer")
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
        "schedule": "constant",
        "warmup_steps": 4,
        "trajectory": None,
    }
    assert config.trainer.total_training_steps == 40
    assert config.trainer.resume_mode == "disable"
    assert config.trainer.device == kind
    assert config.trainer.n_gpus_per_node == 2
    # The largest tensor (fp32) fits into the buffer through which weights reach vLLM.
    assert rollout.checkpoint_engine.update_weights_bucket_megabytes > 400


@pytest.mark.parametrize(("asked_for", "at_once"), [(None, 32), (12, 8), (5, 4), (1, 1)])
def test_a_devices_share_of_a_step_is_cut_evenly(asked_for, at_once):
    """64 sequences on two devices."""
    asked = job("grpo", "cpu", samples_per_prompt=4, micro_batch_size=asked_for)
    config = composed(online.command(asked), "ppo_trainer")
    assert config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu == at_once
    assert config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu == at_once


@pytest.mark.parametrize("kl", ["none", "loss", "reward"])
def test_the_distance_from_the_init_enters_where_the_run_says(kl):
    more = {"kl": kl, "kl_coefficient": 0.04 if kl != "none" else 0}
    config = composed(online.command(job("ppo", "cpu", **more)), "ppo_trainer")
    assert config.actor_rollout_ref.actor.use_kl_loss == (kl == "loss")
    assert config.algorithm.use_kl_in_reward == (kl == "reward")
    if kl == "reward":
        assert config.algorithm.kl_ctrl.kl_coef == 0.04


def test_a_critic_has_its_own_rate_the_policys_schedule_and_no_mask():
    more = {"critic_learning_rate": 1e-4, "lam": 0.95, "gamma": 0.99, "schedule": "linear"}
    config = composed(online.command(job("ppo", "cpu", **more)), "ppo_trainer")
    assert (config.algorithm.adv_estimator, config.algorithm.lam) == ("gae", 0.95)
    assert config.algorithm.gamma == 0.99
    critic = config.critic
    assert (critic.strategy, critic.optim.lr, critic.fsdp.seed) == ("fsdp2", 1e-4, 7)
    own = OmegaConf.to_container(critic.optim.override_optimizer_config)["subnetworks"]
    assert (own["mask"], own["schedule"], own["warmup_steps"]) == (None, "linear", 4)
    assert config.actor_rollout_ref.actor.optim.override_optimizer_config.subnetworks.mask


def test_a_reward_model_has_its_own_rate_the_policys_schedule_and_no_mask():
    config = composed(online.command(job("prime", "cpu", beta=0.1)), "ppo_trainer")
    assert config.trainer.v1.trainer_mode == "subnetworks_prime"
    model = config.actor_rollout_ref.reward_model
    assert (model.beta, model.optim.lr, model.optim.clip_grad) == (0.1, 1e-6, 10.0)
    merged = OmegaConf.merge(config.actor_rollout_ref.actor.optim, model.optim)
    own = OmegaConf.to_container(merged.override_optimizer_config)["subnetworks"]
    assert (own["mask"], own["schedule"], own["warmup_steps"]) == (None, "constant", 4)
    assert merged.total_training_steps == 40


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_supervised_run_is_told_to_verl_in_its_own_words(kind):
    asked = job("sft", kind, schedule="cosine", betas=[0.9, 0.95], resume=20)
    config = composed(sft.command(asked), "sft_trainer_engine")
    assert config.optim.betas == [0.9, 0.95]
    assert config.optim.override_optimizer_config.subnetworks.schedule == "cosine"
    assert config.trainer.seed == 7
    assert config.trainer.resume_mode == "resume_path"
    assert config.trainer.resume_from_path == "/run/state/global_step_20"
    assert config.trainer.device == kind


def test_over_two_nodes_torch_starts_by_srun_and_ray_is_told_of_both():
    command = sft.command(job("sft", "cuda", nodes=2)).arguments
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert {"--nnodes=2", "--nproc_per_node=2", "--rdzv_backend=c10d"} <= set(command)
    assert "--standalone" not in command
    config = composed(online.command(job("grpo", "cuda", nodes=2)), "ppo_trainer")
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


@pytest.mark.parametrize(
    "value", ["plain", "it's", "a,b", "back\\slash", "end\\", "\\'", "{a: 1}", ""]
)
def test_any_text_survives_hydras_grammar(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([override("key", value)])
    assert parsed.value() == value
