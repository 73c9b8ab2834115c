"""Seeds and sweeps: the runs that an entry stands for, and what everything made of them is."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("pydantic")

from subnetworks.artefacts.asking import asked
from subnetworks.core.errors import UserError
from subnetworks.experiment import Experiment, load
from subnetworks.experiment.replicates import Replicates

ROOT = Path(__file__).parents[3]
SMALL = """\
checkpoints:
  base: { make: base }
datasets:
  talks: { make: demonstrations }
  sums: { make: problems }
  pairs: { make: preferences, policy: sft }
runs:
  sft: { algorithm: sft, init: base, data: talks, steps: 4, learning_rate: 1e-3 }
  grpo:
    algorithm: grpo
    init: sft
    data: sums
    steps: 4
    learning_rate: 5e-7
    trajectory_every: 2
    {grpo}
  own: { like: grpo, mask: grpo }
  within_random: { like: grpo, mask: chosen }
  alone: { like: grpo, seed: 7 }
  dpo: { algorithm: dpo, init: sft, data: pairs, steps: 4, learning_rate: 5e-7, {dpo} }
masks:
  chosen: { random: grpo, seed: 5 }
  large: { magnitude: { checkpoint: sft, like: grpo } }
  early: { early: { run: grpo, steps: 2 } }
updates:
  between: { before: grpo, after: own, cast: F32 }
overlaps:
  seeds: { masks: [grpo, grpo_seed1] }
  both: { masks: [early, large] }
  fixed: { masks: [sft, sft] }
agreements:
  grpo: { full: grpo, subnetwork: own, baselines: { init: sft, seed: grpo_seed1 } }
benchmarks:
  math: { task: math500, make: math500 }
evaluation:
  sft: { benchmarks: [math] }
  own: { benchmarks: [math] }
controls:
  runs:
    placebo: { like: grpo, reward: random }
  overlaps:
    placebos: { masks: [grpo, placebo] }
"""


def experiment(folder: Path, grpo: str = "seeds: [0, 1, 2]", dpo: str = "beta: 0.1") -> Experiment:
    (folder / "small.yaml").write_text(SMALL.replace("{grpo}", grpo).replace("{dpo}", dpo))
    return load(folder / "small.yaml")


def refused(folder: Path, **given: Any) -> str:
    with pytest.raises(UserError) as raised:
        experiment(folder, **given)
    return str(raised.value)


def test_seeds_make_replicates_under_names_of_their_own(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    assert [found.runs[name]["seed"] for name in ("grpo", "grpo_seed1", "grpo_seed2")] == [0, 1, 2]
    alike = [{**found.runs[f"grpo_seed{k}"], "seed": 0} for k in (1, 2)]
    assert alike == [found.runs["grpo"]] * 2
    # `like` takes the seeds over, unless the run has a seed of its own.
    assert {"own_seed1", "own_seed2", "placebo_seed2"} <= found.runs.keys()
    assert found.runs["alone"]["seed"] == 7 and "alone_seed1" not in found.runs
    assert "placebo_seed1" in found.named("runs", controls=True)
    assert "own_seed1" in found.named("runs")
    assert set(found.models["runs"]) == set(found.runs)


def test_replicates_train_within_counterparts_of_their_mask(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    masks = [found.runs[name]["mask"] for name in ("own", "own_seed1", "own_seed2")]
    assert masks == ["grpo", "grpo_seed1", "grpo_seed2"]
    assert found.runs["within_random_seed2"]["mask"] == "chosen_seed2"
    # Another random mask, not the same draw from other counts.
    assert found.masks["chosen_seed2"] == {"random": "grpo_seed2", "seed": 7}
    # Whose weights choose is where all of them start.
    assert found.masks["large_seed1"] == {"magnitude": {"checkpoint": "sft", "like": "grpo_seed1"}}
    assert found.masks["early_seed1"] == {"early": {"run": "grpo_seed1", "steps": 2}}


def test_pairs_of_seeds_become_other_pairs(tmp_path: Path) -> None:
    found = experiment(tmp_path)
    pairs = [found.overlaps[name]["masks"] for name in ("seeds", "seeds_seed1", "seeds_seed2")]
    assert pairs == [["grpo", "grpo_seed1"], ["grpo_seed1", "grpo_seed2"], ["grpo_seed2", "grpo"]]
    assert found.overlaps["both_seed2"]["masks"] == ["early_seed2", "large_seed2"]
    assert "fixed_seed1" not in found.overlaps
    assert found.overlaps["placebos_seed1"]["masks"] == ["grpo_seed1", "placebo_seed1"]
    assert "placebos_seed1" in found.named("overlaps", controls=True)
    assert found.updates["between_seed1"] == {
        "before": "grpo_seed1",
        "after": "own_seed1",
        "cast": "F32",
    }
    assert found.agreements["grpo_seed2"] == {
        "full": "grpo_seed2",
        "subnetwork": "own_seed2",
        "baselines": {"init": "sft", "seed": "grpo"},
    }
    # Turn 1 of the second pair is the third; what an agreement implies is turned with it.
    at = found.replicates.at
    assert at("overlaps", "seeds_seed1", 1) == "seeds_seed2"
    assert at("updates", "grpo_agreement_seed", 1) == "grpo_seed1_agreement_seed"
    assert at("overlaps", "grpo_within", 2) == "grpo_seed2_within"
    assert at("masks", "grpo", 2) == "grpo_seed2"


def test_what_others_start_from_is_turned_as_an_update_only(tmp_path: Path) -> None:
    content = SMALL.replace("{grpo}", "seed: 0").replace("{dpo}", "beta: 0.1")
    (tmp_path / "small.yaml").write_text(content.replace("grpo_seed1", "grpo"))
    (tmp_path / "other.yaml").write_text("like: small\nseeds: [0, 3]\n")
    found = load(tmp_path / "other.yaml")
    assert found.replicates.seeds == (0, 3)
    assert found.runs["sft_seed3"]["seed"] == 3 and found.runs["grpo_seed3"]["init"] == "sft"
    assert found.replicates.at("updates", "sft", 1) == "sft_seed3"
    assert found.replicates.at("checkpoints", "sft", 1) == "sft"
    assert set(found.evaluation) == {"sft", "own", "own_seed3"}
    assert load(tmp_path / "small.yaml").replicates == Replicates()


def test_an_experiment_may_be_like_another(tmp_path: Path) -> None:
    experiment(tmp_path)
    (tmp_path / "other.yaml").write_text(
        "like: small\nagreements: { grpo: }\nruns: { dpo: { like: grpo, steps: 9, seed: 0 } }\n"
        "controls: { overlaps: { twice: { masks: [dpo, dpo] } } }\n"
    )
    one, other = load(tmp_path / "small.yaml"), load(tmp_path / "other.yaml")
    assert other.name == "other" and other.agreements == {}
    assert other.runs == {**one.runs, "dpo": {**one.runs["grpo"], "steps": 9}}
    assert other.named("overlaps", controls=True) == [
        *one.named("overlaps", controls=True)[:1],
        "twice",
        *one.named("overlaps", controls=True)[1:],
    ]
    (tmp_path / "a.yaml").write_text("like: b\n")
    (tmp_path / "b.yaml").write_text("like: a\n")
    with pytest.raises(UserError, match=r"b.yaml:1: like: cycle a -> b -> a"):
        load(tmp_path / "a.yaml")


def test_runs_of_the_file_itself_may_be_the_replicates(tmp_path: Path) -> None:
    by_hand = "seeds: [0, 1, 2] }\n  grpo_seed1: { like: grpo, seed: 1"
    flow = "{ algorithm: grpo, init: sft, data: sums, steps: 4, learning_rate: 5e-7, "
    content = SMALL.replace("{dpo}", "beta: 0.1").replace("{grpo}", "trajectory_every: 2")
    before, _, after = content.partition("  grpo:\n")
    rest = after[after.index("  own:") :]
    file = tmp_path / "small.yaml"
    file.write_text(f"{before}  grpo: {flow} trajectory_every: 2, {by_hand} }}\n{rest}")
    assert load(file).runs == experiment(tmp_path).runs
    file.write_text(f"{before}  grpo: {flow} trajectory_every: 2, {by_hand}, beta1: 1 }}\n{rest}")
    with pytest.raises(UserError, match="gives the run 'grpo_seed1', but there is another"):
        load(file)


@pytest.mark.parametrize(
    ("sweep", "further"),
    [
        ("{ steps: [4, 6, 8] }", {"dpo_steps_6": (6, 5e-7), "dpo_steps_8": (8, 5e-7)}),
        (
            "{ steps: [4, 6], learning_rate: [1.5e-6, 5e-7] }",
            {
                "dpo_learning_rate_1_5e_6": (4, 1.5e-6),
                "dpo_steps_6_learning_rate_1_5e_6": (6, 1.5e-6),
                "dpo_steps_6": (6, 5e-7),
            },
        ),
        (
            "[{ steps: [6] }, { learning_rate: [1e-3, 5e-7] }]",
            {"dpo_steps_6": (6, 5e-7), "dpo_learning_rate_0_001": (4, 1e-3)},
        ),
    ],
)
def test_sweeps(tmp_path: Path, sweep: str, further: dict[str, Any]) -> None:
    plain = experiment(tmp_path)
    swept = experiment(tmp_path, dpo=f"sweep: {sweep}")
    new = {name: run for name, run in swept.runs.items() if name not in plain.runs}
    assert {name: (run["steps"], run["learning_rate"]) for name, run in new.items()} == further
    crossed = experiment(tmp_path, dpo=f"seeds: [0, 1, 2], sweep: {sweep}")
    assert {f"{name}_seed2" for name in ("dpo", *further)} <= crossed.runs.keys()
    for name in further:
        assert crossed.replicates.at("updates", name, 1) == f"{name}_seed1"


@pytest.mark.parametrize(
    ("grpo", "dpo", "message"),
    [
        ("seeds: 3", "", "runs.grpo.seeds: expected a list, got 3"),
        ("seeds: [1, 1]", "", "runs.grpo.seeds: has a value twice: [1, 1]"),
        ("seeds: [-1]", "", "runs.grpo.seeds.0: must be at least 0, got -1"),
        ("seeds: []", "", "runs.grpo.seeds: needs at least 1, got []"),
        ("seeds: [1]\n    seed: 1", "", "runs.grpo: seed and seeds exclude each other"),
        (
            "seeds: [0, 1]",
            "seeds: [0, 2]",
            "runs.dpo: all runs with seeds have the same, in the same order: [0, 1] and [0, 2]",
        ),
        ("seed: 0", "sweep: { steps: 4 }", "runs.dpo.sweep.0.steps: expected a list, got 4"),
        ("seed: 0", "sweep: 4", "runs.dpo.sweep: expected a list, got 4"),
        ("seed: 0", "sweep: { seed: [1] }", "runs.dpo.sweep: 'seed' cannot be swept; use seeds"),
        (
            "seed: 0",
            "sweep: { beta: [1] }",
            "runs.dpo.sweep: 'beta' is swept, but the run has no value of its own: give it one",
        ),
        (
            "seed: 0",
            "sweep: { steps: [-1] }",
            "runs.dpo_steps_1.steps: must be at least 1, got -1",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, grpo: str, dpo: str, message: str) -> None:
    line = 19 if dpo else 16 + ("\n" in grpo)
    text = refused(tmp_path, grpo=grpo, dpo=dpo)
    assert text.endswith(f": {message}") and text.startswith(f"{tmp_path / 'small.yaml'}:")
    assert abs(int(text.split(":")[1]) - line) <= 2


def test_an_artefact_is_asked_for_at_every_turn() -> None:
    wishes = asked(load(ROOT / "experiments" / "mini_seeds.yaml"))
    overlap = wishes["table_4_overlap"]
    shown = [[row.overlap for row in spec.overlaps] for spec in (overlap.spec, *overlap.turns)]  # type: ignore[union-attr]
    assert shown == [
        ["grpo_seeds", "dpo_seeds", "grpo_dpo"],
        ["grpo_seeds_seed1", "dpo_seeds_seed1", "grpo_dpo_seed1"],
        ["grpo_seeds_seed2", "dpo_seeds_seed2", "grpo_dpo_seed2"],
    ]
    assert (overlap.seeds, overlap.in_pairs) == (3, True)
    assert "overlaps/dpo_seeds_seed2.json" in overlap.reads
    assert overlap.files["seeds"] == "tables/table_4_overlap.seeds.csv"
    sparsity = wishes["table_1_update_sparsity"]
    assert (sparsity.seeds, sparsity.in_pairs, len(sparsity.turns)) == (3, False, 2)
    assert "updates/sft_seed1.json" in sparsity.reads
    # What all start from is the same at every turn; an agreement brings what it implies.
    pair = wishes["table_3_subnetwork_accuracy"].turns[0].pairs[0]  # type: ignore[attr-defined]
    assert (pair.full, pair.subnetwork, pair.init) == ("grpo_seed1", "grpo_subnetwork_seed1", "sft")
    agreement = wishes["conjecture_1_agreement"].turns[0].agreements[0]  # type: ignore[attr-defined]
    assert (agreement.update, agreement.within) == ("grpo_seed1_agreement", "grpo_seed1_within")
    assert agreement.baselines["seed"] == "grpo_seed1_agreement_seed"
    null = [spec.runs[1] for spec in wishes["control_null_model"].turns]  # type: ignore[attr-defined]
    assert [(row.run, row.followed, row.overlap) for row in null] == [
        ("grpo_seed1", "grpo_seed1", "grpo_seeds_seed1"),
        ("grpo_seed2", "grpo_seed2", "grpo_seeds_seed2"),
    ]
    # Every claim of mini rests on three seeds here.
    assert {wish.seeds for wish in wishes.values() if wish.spec} == {3}


def test_seeds_are_counted_however_an_experiment_has_them() -> None:
    wishes = asked(load(ROOT / "experiments" / "mini.yaml"))
    assert not any(wish.turns for wish in wishes.values())
    # GRPO and DPO with three seeds each, written out; elsewhere something has one only.
    assert wishes["table_4_overlap"].seeds == 3
    assert wishes["table_1_update_sparsity"].seeds == 1
    assert wishes["conjecture_1_agreement"].seeds == 1
    released = asked(load(ROOT / "experiments" / "paper.yaml"))["table_1_update_sparsity"]
    assert released.spec and released.seeds is None


def test_a_name_that_two_entries_would_have(tmp_path: Path) -> None:
    content = SMALL.replace("{grpo}", "seeds: [0, 1]").replace("{dpo}", "beta: 0.1")
    content = content.replace("  chosen:", "  chosen_seed1: { complement: sft }\n  chosen:")
    (tmp_path / "small.yaml").write_text(content)
    with pytest.raises(
        UserError, match=r"masks.chosen: gives 'chosen_seed1', but there is another of that name"
    ):
        load(tmp_path / "small.yaml")
