"""Tables and figures over several seeds: their means, their intervals, and what claims say."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("pydantic")
stats = pytest.importorskip("scipy.stats")

from matplotlib.container import ErrorbarContainer  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from subnetworks.artefacts import Figure, Table, load, style  # noqa: E402
from subnetworks.artefacts.published import Published  # noqa: E402
from subnetworks.artefacts.turns import MeanContext, Over  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

PUBLISHED = Path(__file__).resolve().parents[3] / "workflow" / "published"
SPARSITY = {"grpo": (0.45, 0.53, 0.59), "sft": (0.02, 0.03, 0.02)}


def at(name: str, seed: int) -> str:
    return f"{name}_seed{seed}" if seed else name


@pytest.fixture
def folder(made_up: ModuleType, tmp_path: Path) -> Path:
    """Results of three seeds."""
    made = made_up.make(tmp_path / "results" / "mini")
    rng = np.random.default_rng(1)
    for name, values in SPARSITY.items():
        for seed, value in enumerate(values):
            made_up.update(made, at(name, seed), value, rng)
    counts = ((360_000, 364_000, 333_000), (360_000, 364_000, 330_000), (360_000, 364_000, 340_000))
    for seed, three in enumerate(counts):
        made_up.overlap(made, at("grpo_seeds", seed), ("a", "b"), three)
    return made


def told(folder: Path, name: str, *specs: Any, in_pairs: bool = False) -> Context:
    return Context(folder, PUBLISHED, specs[0], specs[1:], in_pairs)


def written(kind: Any, name: str, context: Context) -> Path:
    """Write an artefact as the command line does; its CSV."""
    made = load(name, kind)
    made.write(context, context.results / made.kind)
    path: Path = context.results / made.kind / f"{name}.csv"
    known = {"n": 1 + len(context.turns), "in_pairs": context.in_pairs, "turns": len(context.turns)}
    path.with_name(f"{path.name}.meta.json").write_text(json.dumps({"seeds": known}))
    return path


def over_interval(made: Any, folder: Path, key: str) -> tuple[float, float]:
    """Of the second row of a finished table."""
    ends: tuple[float, float] = made.over(folder).interval(1, key)
    return ends


def updates(seed: int) -> dict[str, Any]:
    rows = [
        {"update": at(name, seed), "algorithm": name.upper(), "label": name.upper()}
        for name in ("sft", "grpo")
    ]
    return {"updates": [row | {"on_policy": row["label"] == "GRPO"} for row in rows]}


def test_a_table_has_means_and_intervals_over_seeds(folder: Path) -> None:
    name = "table_1_update_sparsity"
    made = load(name, Table)
    path = written(Table, name, told(folder, name, *(updates(seed) for seed in range(3))))
    single = [made.build(Context(folder, PUBLISHED, updates(seed))) for seed in range(3)]
    means = made.read(folder)
    assert means is not None
    values = [frame["sparsity_pct"][1] for frame in single]
    assert means["sparsity_pct"][1] == pytest.approx(np.mean(values))
    assert means["update"].to_list()[:2] == ["sft", "grpo"]
    assert means["changed"][1] == round(np.mean([frame["changed"][1] for frame in single]))
    # What the paper prints has no spread.
    assert means.filter(source="paper").equals(single[0].filter(source="paper"))
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]" in path.with_suffix(".md").read_text()
    least, most = over_interval(made, folder, "changed")
    counts = f"{means['changed'][1]:,} [{round(least):,}, {round(most):,}]"
    assert counts in path.with_suffix(".md").read_text()
    assert "Means over 3 seeds" in path.with_suffix(".md").read_text()
    over = made.over(folder)
    assert over is not None
    assert all(one.equals(other) for one, other in zip(over.frames, single, strict=True))
    assert over.interval(1, "sparsity_pct") == pytest.approx((low, high))
    assert over.interval(1, "n") is None


def test_claims_are_of_all_seeds_or_marked(folder: Path) -> None:
    name, paper = "table_1_update_sparsity", Published(PUBLISHED)
    made = load(name, Table)

    def claimed(*seeds: int) -> dict[str, Any]:
        written(Table, name, told(folder, name, *(updates(seed) for seed in seeds)))
        ours = made.ours(folder)
        assert ours is not None
        return {claim.claim: claim for claim in made.claimed(ours, folder, paper)}

    sparse = "RL leaves most weights unchanged"
    dense = "SFT changes nearly all weights, RL far fewer"
    found = claimed(0, 1, 2)
    assert found[dense].appears == "yes"
    assert "over 3 seeds: yes at 3, least margin +4" in found[dense].here
    # 45 to 59 %: more than half at two seeds only.
    assert found[sparse].appears == "unclear" and "yes at 2" in found[sparse].here
    found = claimed(2)
    assert found[sparse].appears == "yes" and found[sparse].here.endswith("(one seed)")
    assert "seeds" not in found[sparse].here


def test_comparisons_of_seeds_share_their_trainings(folder: Path) -> None:
    name = "table_4_overlap"
    specs = [
        {"overlaps": [{"overlap": at("grpo_seeds", seed), "label": "seed"}]} for seed in range(3)
    ]
    widths = []
    for in_pairs in (False, True):
        path = written(Table, name, told(folder, name, *specs, in_pairs=in_pairs))
        over = load(name, Table).over(folder)
        assert over is not None and over.in_pairs is in_pairs
        low, high = over.interval(0, "o1_pct")  # type: ignore[misc]
        widths.append(high - low)
    assert widths[1] == pytest.approx(2 * widths[0])
    assert "shares its trainings" in path.with_suffix(".md").read_text()


def test_scores_over_seeds_have_the_errors_of_seeds_and_questions(
    folder: Path, made_up: ModuleType
) -> None:
    name = "table_3_subnetwork_accuracy"
    for seed, gain in enumerate((0.0, 0.03, -0.02)):
        for benchmark in made_up.INIT_SCORES:
            made_up.score(folder, at("grpo", seed), benchmark, 0.2 + gain)
            made_up.score(folder, at("grpo_subnetwork", seed), benchmark, 0.21 - gain)
    specs = [
        {
            "pairs": [
                {
                    "algorithm": "GRPO",
                    "full": at("grpo", seed),
                    "subnetwork": at("grpo_subnetwork", seed),
                    "init": "sft",
                }
            ],
            "benchmarks": ["math500", "agieval"],
        }
        for seed in range(3)
    ]
    written(Table, name, told(folder, name, *specs))
    made = load(name, Table)
    rows = {(row["task"], row["group"]): row for row in made.read(folder).to_dicts()}  # type: ignore[union-attr]
    row, average = rows["math500", "all"], rows[None, "average"]
    single = [made.build(Context(folder, PUBLISHED, spec)).row(0, named=True) for spec in specs]
    values = [one["difference"] for one in single]
    assert row["difference"] == pytest.approx(np.mean(values))
    # Not less than the spread over seeds alone, nor than the error over the questions.
    assert row["difference_stderr"] >= stats.sem(values) * (1 - 1e-9)
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["standing"] == "undecided" and row["beyond_noise"] is False
    assert 2 <= row["freedom"] < 20
    # The start is the same at every seed: its error is that of the questions.
    assert row["init_stderr"] == pytest.approx(single[0]["init_stderr"])
    both = [rows[task, "all"]["difference"] for task in ("math500", "agieval")]
    assert average["difference"] == pytest.approx(np.mean(both))
    assert average["difference_stderr"] > 0


def test_a_figure_draws_the_means(folder: Path) -> None:
    name = "figure_1_sft_vs_rl"
    specs = [
        {"families": [{"family": "mini, GRPO", "sft": at("sft", s), "rl": at("grpo", s)}]}
        for s in range(3)
    ]
    path = written(Figure, name, told(folder, name, *specs))
    made = load(name, Figure)
    values = [
        made.draw(Context(folder, PUBLISHED, spec))[1]["sparsity_exact_pct"][1] for spec in specs
    ]
    means = made.read(folder)
    assert means is not None and means["sparsity_exact_pct"][1] == pytest.approx(
        np.mean(values), abs=1e-3
    )
    assert path.with_suffix(".png").exists()
    over = made.over(folder)
    assert over is not None and over.interval(1, "sparsity_exact_pct") is not None


def test_figures_show_the_intervals_over_seeds(folder: Path) -> None:
    name = "figure_1_sft_vs_rl"
    specs = [
        {"families": [{"family": "mini, GRPO", "sft": at("sft", s), "rl": at("grpo", s)}]}
        for s in range(3)
    ]
    made = load(name, Figure)
    with style.house_style():
        drawing, frame, over = made.draw_over(told(folder, name, *specs))
        alone, _ = made.draw(told(folder, name, specs[0]))
    values = [one["sparsity_exact_pct"][1] for one in over.frames]
    wanted = stats.ttest_1samp(values, 0).confidence_interval()
    ends = [whiskers(axes) for axes in drawing.axes]
    assert ends[0][1] == pytest.approx((wanted.low, wanted.high))
    assert len(ends[0]) == 2 and not ends[1], "the paper's bars have none"
    assert "95 % interval over 3 seeds" in written_on(drawing)
    assert not whiskers(alone.axes[0])
    assert "sparsity_exact_pct:low" not in frame.columns


def whiskers(axes: Any) -> list[tuple[float, float]]:
    """Both ends of the error bars that are drawn."""
    bars = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    return [tuple(path.vertices[:, 1]) for bar in bars for path in bar.lines[2][0].get_paths()]


def of_seed(name: str, seed: int) -> dict[str, Any]:
    """What the other figures are told at a seed."""
    if name == "figure_3_layerwise_sparsity":
        return {"updates": [{"update": at("grpo", seed), "algorithm": "GRPO", "label": "GRPO"}]}
    if name == "figure_4_training_loss":
        names = {kind: at(run, seed) for kind, run in (("full", "dpo"), ("subnetwork", "grpo"))}
        return {"pairs": [{**names, "algorithm": "DPO"}]}
    return {"runs": [{"run": at("dpo", seed), "algorithm": "DPO"}]}


@pytest.mark.parametrize(
    ("name", "key", "spread"),
    [
        ("figure_2_gradient_shares", "pct", "words"),
        ("figure_3_layerwise_sparsity", "sparsity_pct", "bars"),
        ("figure_4_training_loss", "difference_smoothed", "band"),
        ("figure_5_sparsity_over_training", "sparsity_pct", "bars"),
        ("figure_6_outside_final_mask", "outside_final_pct", "bars"),
        ("figure_7_accuracy_and_intervals", "accuracy_smoothed_pct", "band"),
    ],
)
def test_every_figure_shows_its_spread_over_seeds(
    folder: Path, made_up: ModuleType, name: str, key: str, spread: str
) -> None:
    for seed in range(3):
        for run, shift in (("dpo", 0.1), ("grpo", 0.2)):
            made_up.log(folder, at(run, seed), "loss", seed + 1, shift + 0.05 * seed)
        made_up.trajectory(folder, at("dpo", seed), (5 + seed, 12 + 2 * seed, 0), 15)
    made = load(name, Figure)
    with style.house_style():
        drawing, frame, over = made.draw_over(
            told(folder, name, *(of_seed(name, seed) for seed in range(3)))
        )
        alone, _ = made.draw(told(folder, name, of_seed(name, 0)))
    # What is written are the means alone; the seeds' own numbers lie beside them.
    assert frame.columns == list(made.types)
    assert frame[key].to_list() == pytest.approx(over.mean[key].to_list(), nan_ok=True)

    def shown(figure: Any) -> dict[str, int]:
        return {
            "bars": sum(len(whiskers(axes)) for axes in figure.axes),
            "band": sum(len(axes.collections) for axes in figure.axes),
            "words": sum("[" in text.get_text() for axes in figure.axes for text in axes.texts),
        }

    assert shown(drawing)[spread] > shown(alone)[spread]
    assert "95 % interval over 3 seeds" in written_on(drawing)
    assert "interval over" not in written_on(alone)


def written_on(figure: Any) -> str:
    """All words of a figure."""
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_means_of_logs_and_of_containment(folder: Path, made_up: ModuleType) -> None:
    for seed in range(3):
        made_up.log(folder, at("dpo", seed), "loss", 1, 0.3 * seed)
        (folder / "transfers").mkdir(exist_ok=True)
        (folder / "transfers" / f"{at('grpo', seed)}.json").write_text(
            json.dumps(
                {
                    "masks": [
                        {"mask": f"masks/{at(name, k)}.safetensors", "n": 10, "inside": seed + k}
                        for k in range(3)
                        for name in ("grpo", "dpo")
                    ]
                }
            )
        )
    others = {
        (section, name): [at(name, seed) for seed in range(3)]
        for section in ("updates", "checkpoints")
        for name in ("grpo", "dpo")
    }
    context = MeanContext(folder, PUBLISHED, {}, others=others)
    plain = Context(folder, PUBLISHED, {})
    losses = np.mean([plain.log(at("dpo", seed))["loss"].to_numpy() for seed in range(3)], axis=0)
    assert context.log("dpo")["loss"].to_numpy() == pytest.approx(losses)
    assert context.log("dpo")["step"].to_list() == plain.log("dpo")["step"].to_list()
    # Each update within the mask of its own seed: (0 + 0, 1 + 1, 2 + 2) / 3.
    rows = context.transfer("grpo")
    assert rows["grpo"]["inside"] == rows["dpo"]["inside"] == 2


def test_counts_of_tensors_are_averaged_and_layers_stay(folder: Path) -> None:
    names = [at("grpo", seed) for seed in range(3)]
    context = MeanContext(folder, PUBLISHED, {}, others={("updates", "grpo"): names})
    plain = [Context(folder, PUBLISHED, {}).update_tensors(name) for name in names]
    mean = context.update_tensors("grpo")
    equal = np.mean([one["equal"].to_numpy() for one in plain], axis=0)
    assert mean["equal"].to_numpy() == pytest.approx(equal)
    assert mean["layer"].equals(plain[0]["layer"]) and mean["layer"].dtype.is_integer()


def test_a_figure_reads_no_result_of_one_seed_alone() -> None:
    readers = {name for name in vars(Context) if not name.startswith("_")}
    readers -= {"rows", "paper", "remarks", "skipped", "turns", "in_pairs"}
    assert readers <= set(vars(MeanContext))


def test_nothing_is_said_of_a_spread_that_is_not_there() -> None:
    frames = [
        polars.DataFrame({"a": [1.0, 2.0], "b": [value, None], "c": [True, value > 1]})
        for value in (1.0, 2.0)
    ]
    over = Over(frames)
    assert over.mean.to_dict(as_series=False) == {
        "a": [1.0, 2.0],
        "b": [1.5, None],
        "c": [True, None],
    }
    assert over.interval(0, "a") is None and over.interval(1, "b") is None
    assert over.interval(0, "c") is None and over.interval(1, "c") is None
    low, high = over.interval(0, "b")  # type: ignore[misc]
    assert (low, high) == pytest.approx((1.5 - 12.706 * 0.5, 1.5 + 12.706 * 0.5), rel=1e-3)
    assert Over(frames, in_pairs=True).interval(0, "b") is None


def test_a_table_of_one_seed_again_is_not_read_as_over_seeds(folder: Path) -> None:
    name = "table_1_update_sparsity"
    written(Table, name, told(folder, name, *(updates(seed) for seed in range(3))))
    beside = folder / "tables" / f"{name}.seeds.csv"
    shutil.copy(beside, folder / "kept.csv")
    written(Table, name, told(folder, name, updates(0)))
    assert beside.exists() and load(name, Table).over(folder) is None
