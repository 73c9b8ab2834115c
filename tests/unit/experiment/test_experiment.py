"""Experiment files: what is refused, with which words, and what a valid file implies."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("pydantic")

import yaml

from subnetworks.artefacts.asking import asked
from subnetworks.core.errors import UserError
from subnetworks.experiment import inputs, load, options
from subnetworks.measuring import mask_sources

ROOT = Path(__file__).parents[3]

SMALL: dict[str, Any] = {
    "checkpoints": {"base": {"make": "base"}},
    "datasets": {
        "demonstrations": {"make": "demonstrations"},
        "pairs": {"make": "preferences", "policy": "sft"},
    },
    "runs": {
        "sft": {
            "algorithm": "sft",
            "init": "base",
            "data": "demonstrations",
            "steps": 3,
            "learning_rate": 1e-3,
        },
        "dpo": {
            "algorithm": "dpo",
            "init": "sft",
            "data": "pairs",
            "steps": 2,
            "learning_rate": 1e-6,
        },
        "dpo_sub": {"like": "dpo", "mask": "dpo", "seed": 4},
    },
    "overlaps": {"both": {"masks": ["sft", "dpo"]}},
    "agreements": {"dpo": {"full": "dpo", "subnetwork": "dpo_sub", "baselines": {"init": "sft"}}},
    "benchmarks": {"sums": {"task": "math500", "make": "math500"}},
    "evaluation": {"dpo": {"benchmarks": ["sums"]}},
    "tables": {"table_1_update_sparsity": {"updates": [{"update": "dpo", "algorithm": "DPO"}]}},
}


def written(tmp_path: Path, change: dict[str, Any]) -> Path:
    """SMALL with dotted keys set to new values, as a file."""
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "experiments").glob("*.yaml")))
def test_the_shipped_experiments_are_valid(name: str) -> None:
    experiment = load(ROOT / "experiments" / f"{name}.yaml")
    assert experiment.name == name
    assert asked(experiment)


def test_what_a_run_and_an_agreement_imply(tmp_path: Path) -> None:
    experiment = load(written(tmp_path, {}))
    assert experiment.runs["dpo_sub"] == {**SMALL["runs"]["dpo"], "mask": "dpo", "seed": 4}
    assert experiment.updates["dpo"] == {"before": "sft", "after": "dpo"}
    assert experiment.updates["dpo_agreement"] == {"before": "dpo", "after": "dpo_sub"}
    assert experiment.updates["dpo_agreement_init"] == {"before": "dpo", "after": "sft"}
    assert experiment.overlaps["dpo_within"] == {"masks": ["dpo", "dpo_sub"]}
    assert experiment.before_of_mask("dpo") == "sft"


def test_the_weights_of_a_derived_mask_are_those_of_its_source(tmp_path: Path) -> None:
    masks = {"outside": {"complement": "dpo"}, "both": {"union": ["outside", "dpo"]}}
    experiment = load(written(tmp_path, {"masks": masks}))
    assert mask_sources.parse(experiment.masks["both"]).masks == ["outside", "dpo"]
    assert experiment.before_of_mask("both") == "sft"


def test_a_mask_by_weights_or_of_a_trajectory_is_drawn_on_its_own_checkpoint(
    tmp_path: Path,
) -> None:
    masks = {
        "small": {"magnitude": {"checkpoint": "base", "like": "dpo"}},
        "principal": {"principal": {"checkpoint": "sft", "density": 0.1, "rank": 4}},
        "early": {"early": {"run": "dpo", "steps": 1}},
        "either": {"union": ["early", "small"]},
    }
    change = {"masks": masks, "runs.dpo.trajectory_every": 1}
    experiment = load(written(tmp_path, change))
    assert mask_sources.parse(experiment.masks["small"]).masks == ["dpo"]
    assert mask_sources.parse(experiment.masks["principal"]).masks == []
    weights = {name: experiment.before_of_mask(name) for name in masks}
    assert weights == {"small": "base", "principal": "sft", "early": "sft", "either": "sft"}


CONTROLS: dict[str, Any] = {
    "runs": {"dpo_fast": {"like": "dpo", "learning_rate": 1e-4}},
    "overlaps": {"fast": {"masks": ["dpo", "dpo_fast"]}},
    "agreements": {"fast": {"full": "dpo", "subnetwork": "dpo_fast"}},
    "tables": {"control_chance": {"overlaps": [{"overlap": "fast", "label": "fast"}]}},
}


def test_controls_are_in_the_same_sections_and_told_apart(tmp_path: Path) -> None:
    alone = load(written(tmp_path, {}))
    experiment = load(written(tmp_path, {"controls": CONTROLS}))
    assert experiment.runs["dpo_fast"] == {**SMALL["runs"]["dpo"], "learning_rate": 1e-4}
    assert experiment.updates["dpo_fast"] == {"before": "sft", "after": "dpo_fast"}
    for section in ("runs", "updates", "overlaps", "agreements", "evaluation", "tables"):
        assert experiment.named(section) == list(getattr(alone, section)), section
        both = experiment.named(section) + experiment.named(section, controls=True)
        assert sorted(both) == sorted(getattr(experiment, section)), section
    assert experiment.named("updates", controls=True) == ["dpo_fast", "fast_agreement"]
    assert experiment.named("overlaps", controls=True) == ["fast", "fast_within"]
    assert alone.named("updates", controls=True) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controls.overlaps.both": {"masks": ["dpo", "sft"]}}, ["controls.overlaps", "'both'"]),
        ({"controls.runs.dpo": {"like": "sft"}}, ["controls.runs", "'dpo'"]),
        ({"controls.overlap": {}}, ["controls", "did you mean 'overlaps'"]),
        ({"controls.runs.fast": {"like": "dpo", "step": 1}}, ["controls.runs.fast", "'step'"]),
        ({"controls.runs.fast": {"like": "dop"}}, ["runs.fast.like", "did you mean 'dpo'"]),
        ({"controls.overlaps.x": {"masks": ["dpo", "sff"]}}, ["overlaps.x.masks", "'sff'"]),
        (
            {"controls.runs.fast": {"like": "dpo"}, "runs.dpo_sub.mask": "fast"},
            ["runs.dpo_sub.mask", "no mask 'fast'"],
        ),
    ],
)
def test_a_mistake_among_the_controls_is_one_clear_line(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        load(written(tmp_path, change))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"runs.sft.learning_rat": 1},
            ["runs.sft", "'learning_rat'", "did you mean 'learning_rate'", "warmup_steps"],
        ),
        ({"overlap": {}}, ["'overlap'", "did you mean 'overlaps'", "agreements"]),
        ({"runs.sft.steps": "many"}, ["runs.sft.steps", "whole number", "'many'"]),
        ({"runs.sft.algorithm": "sfft"}, ["'sfft'", "allowed: sft, grpo, "]),
        ({"runs.sft.init": "bse"}, ["runs.sft.init", "'bse'", "did you mean 'base'"]),
        ({"runs.dpo.data": "pears"}, ["runs.dpo.data", "'pears'", "demonstrations, pairs"]),
        ({"runs.dpo_sub.mask": "gpo"}, ["runs.dpo_sub.mask", "'gpo'"]),
        (
            {"runs.dpo_sub.like": "gpo"},
            ["runs.dpo_sub.like", "'gpo'", "there are: dpo, dpo_sub, sft"],
        ),
        ({"runs.dpo.mask": "dpo"}, ["cycle", "masks.dpo", "checkpoints.dpo"]),
        ({"masks.m.magnitude": {"checkpoint": "bse", "density": 0.1}}, ["masks.m", "'bse'"]),
        ({"masks.m.magnitude": {"checkpoint": "base"}}, ["masks.m.magnitude", "like | density"]),
        ({"masks.m.principal": {"checkpoint": "base", "density": 0.1}}, ["masks.m", "'rank'"]),
        ({"masks.m.early": {"run": "dpo", "steps": 1}}, ["keeps no step 1", "trajectory_every"]),
        (
            {"masks.m.early": {"run": "sft", "steps": 1}, "runs.sft.trajectory_every": 2},
            ["masks.m.early", "'sft'", "there are: 2"],
        ),
        (
            {
                "masks.m.early": {"run": "dpo", "steps": 2},
                "runs.dpo.trajectory_every": 2,
                "runs.dpo.mask": "m",
            },
            ["cycle", "masks.m", "checkpoints.dpo"],
        ),
        ({"runs.dpo.like": "dpo_sub"}, ["cycle", "like"]),
        ({"datasets.pairs.policy": "dpo"}, ["cycle", "datasets.pairs", "checkpoints.dpo"]),
        ({"checkpoints.lora": {"path": "x", "base": "bse"}}, ["checkpoints.lora.base", "'base'"]),
        ({"checkpoints.lora": {"path": "x", "base": "lora"}}, ["cycle", "checkpoints.lora"]),
        ({"checkpoints.lora": {"path": "adapter:x@y"}}, ["checkpoints.lora.path", "'base'"]),
        ({"checkpoints.hub": {"path": "hub:x/y@z"}}, ["checkpoints.hub.path", "'hub'"]),
        ({"checkpoints.sft": {"path": "x"}}, ["checkpoints.sft", "run of that name"]),
        ({"checkpoints.other": {"hubb": "a/b"}}, ["checkpoints.other", "make | hub | path"]),
        (
            {"updates.dpo": {"before": "base", "after": "sft"}},
            ["updates.dpo", "implies it already"],
        ),
        ({"overlaps.both.masks": ["sft", "gone"]}, ["overlaps.both.masks", "'gone'"]),
        ({"evaluation.gone": {"benchmarks": ["sums"]}}, ["evaluation.gone", "checkpoint"]),
        ({"evaluation.dpo.benchmarks": ["sum"]}, ["'sum'", "did you mean 'sums'"]),
        (
            {"tables.table_1_update_sparsity.updates": [{"update": "gone", "algorithm": "x"}]},
            ["tables.table_1_update_sparsity", "'gone'"],
        ),
        ({"tables.table_9": {}}, ["'table_9'", "table_1_update_sparsity"]),
        ({"runs.a b": {}}, ["'a b'"]),
        ({"runs.../x": {}}, ["runs"]),
    ],
)
def test_a_mistake_ends_with_one_line_that_names_it(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        asked(load(written(tmp_path, change)))
    message = str(error.value)
    assert "\n" not in message
    for word in ["small.yaml", *words]:
        assert word in message


def test_a_missing_file_lists_what_there_is(tmp_path: Path) -> None:
    written(tmp_path, {})
    with pytest.raises(UserError, match=r"there are: small"):
        load(tmp_path / "smal.yaml")


def test_the_quick_experiment_is_a_part_of_the_miniature() -> None:
    """What both name is the same, so that a first look shows the miniature's own numbers."""
    quick, mini = (load(ROOT / "experiments" / f"{name}.yaml") for name in ("quick", "mini"))
    for section in ("checkpoints", "datasets", "runs", "updates", "masks", "overlaps"):
        whole = getattr(mini, section)
        for name, entry in getattr(quick, section).items():
            assert entry == whole[name], f"{section}.{name}"
    for section in ("tables", "figures"):
        whole = getattr(mini, section)
        for name, spec in getattr(quick, section).items():
            for key, rows in spec.items():
                assert all(row in whole[name][key] for row in rows), name


def test_an_adapter_names_its_base_and_what_is_loaded_is_known(tmp_path: Path) -> None:
    adapters = {
        "checkpoints.lora": {"path": "mine/lora", "base": "sft"},
        "checkpoints.other": {"hub": "owner/lora", "base": "lora"},
        "updates.lora": {"before": "sft", "after": "lora"},
    }
    experiment = load(written(tmp_path, adapters))
    assert experiment.hub_source("checkpoints", "other").repository == "owner/lora"
    loaded = [
        name for name in ("base", "sft", "dpo", "lora", "other") if experiment.is_loaded(name)
    ]
    assert loaded == ["base", "sft", "dpo"]  # an init, a policy and what is evaluated
    assert inputs.base(experiment, "lora") == {"base": "checkpoints/sft/manifest.json"}
    assert inputs.base(experiment, "base") == {"base": []}
    told = options.of_checkpoint(experiment, "other", "results/small")
    assert told == "--base results/small/checkpoints/lora"
    assert options.of_checkpoint(experiment, "base", "results/small") == "--loadable"
