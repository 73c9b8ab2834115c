"""What is asked of verl, read back through verl's own configuration."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("verl")
hydra = pytest.importorskip("hydra")

from omegaconf import OmegaConf  # noqa: E402

from subnetworks.training import online, sft  # noqa: E402
from subnetworks.training.job import Job, environment, override  # noqa: E402
from subnetworks.training.settings import parse_accelerator, parse_settings  # noqa: E402

BASE = {"steps": 40, "batch_size": 16, "learning_rate": 3e-6, "seed": 7, "warmup_steps": 4}


def job(algorithm, kind, resume=0, mask="/mask 'it', = {x}.safetensors", **more):
    return Job(
        settings=parse_settings({"algorithm": algorithm, **BASE, **more}),
        machine=parse_accelerator({"kind": kind, "devices": 2}),
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
    more = {"samples_per_prompt": 4, "kl_coefficient": 0.04, "clip_gradient": 0}
    asked = job("grpo", kind, **more)
    config = composed(online.command(asked), "ppo_trainer")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert config.algorithm.adv_estimator == "grpo"
    assert (config.data.train_batch_size, rollout.n) == (16, 4)
    assert config.data.seed == rollout.seed == 7
    assert actor.optim.lr == 3e-6
    assert actor.optim.clip_grad >= 1e20
    assert (actor.use_kl_loss, actor.kl_loss_coef) == (True, 0.04)
    own = OmegaConf.to_container(actor.optim.override_optimizer_config)["subnetworks"]
    assert own == {
        "mask": str(asked.mask),
        "optimiser_state": "compact",
        "schedule": "constant",
        "warmup_steps": 4,
    }
    assert config.trainer.total_training_steps == 40
    assert config.trainer.resume_mode == "disable"
    assert config.trainer.device == kind
    assert config.trainer.n_gpus_per_node == 2
    # The largest tensor (fp32) fits into the buffer through which weights reach vLLM.
    assert rollout.checkpoint_engine.update_weights_bucket_megabytes > 400


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
