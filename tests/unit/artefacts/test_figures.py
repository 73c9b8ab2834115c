"""Figures draw what the results say, the same bytes every time."""

import ast
import csv
import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest

polars = pytest.importorskip("polars")
matplotlib = pytest.importorskip("matplotlib")

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure, style  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.core.results import Context  # noqa: E402

PUBLISHED = Path(__file__).resolve().parents[3] / "workflow" / "published"
NAMES = [figure.name for figure in artefacts.of_kind(Figure) if not figure.is_control]


@pytest.fixture(scope="module")
def drawn(made_up, results):
    """Every figure's Figure and frame."""
    found = {}
    with style.house_style():
        for name in NAMES:
            found[name] = artefacts.load(name, Figure).draw(
                Context(results, PUBLISHED, made_up.SPECS[name])
            )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_second_drawing_gives_the_same_bytes(made_up, results, tmp_path, name):
    contents = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        with style.house_style():
            context = Context(results, PUBLISHED, made_up.SPECS[name])
            paths = style.write(*artefacts.load(name, Figure).draw(context), name, folder)
        assert [p.suffix for p in paths] == [".pdf", ".svg", ".png", ".csv"]
        contents.append([p.read_bytes() for p in paths])
    assert contents[0] == contents[1]
    assert b"<dc:date>" not in contents[0][1]
    assert b"CreationDate" not in contents[0][0]


def test_the_house_style_leaves_settings_alone():
    before = dict(matplotlib.rcParams)
    with style.house_style():
        assert matplotlib.rcParams["svg.hashsalt"] == "subnetworks"
    assert dict(matplotlib.rcParams) == before


def test_figure_1_bars_are_the_exactly_equal_share(drawn, results):
    figure, frame = drawn["figure_1_sft_vs_rl"]
    counted = polars.read_parquet(results / "updates" / "grpo.parquet")
    share = 100 * counted["equal"].sum() / counted["n"].sum()
    ours = frame.filter(family="mini, GRPO", training="RL").row(0, named=True)
    assert ours["sparsity_exact_pct"] == pytest.approx(share)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[1] == pytest.approx(share)
    with open(PUBLISHED / "figure1_sft_vs_rl.csv", newline="") as handle:
        printed = [
            float(row[f"{kind}_sparsity_pct"])
            for row in csv.DictReader(handle)
            for kind in ("sft", "rl")
        ]
    assert [bar.get_height() for bar in figure.axes[1].patches] == printed
    for axes in figure.axes:
        assert axes.get_ylim() == (0, 100)


def test_an_algorithm_keeps_its_look():
    assert style.algorithm("GRPO") == style.algorithm("grpo, masked")
    looks = [style.algorithm(a) for a in ("SFT", "GRPO", "DPO", "PPO", "PRIME", "KTO", "SimPO")]
    assert len({look.colour for look in looks}) == len({look.hatch for look in looks}) == 7


def test_figure_3_mean_counts_every_tensor_once(drawn, results):
    _, frame = drawn["figure_3_layerwise_sparsity"]
    counted = polars.read_parquet(results / "updates" / "dpo.parquet").filter(layer=2).to_dicts()
    shares = [100 * t["isclose_bf16_1e-5"] / t["n"] for t in counted]
    drawn_mean = frame.filter(update="dpo", matrix="mean, unweighted", layer=2)[
        "sparsity_pct"
    ].item()
    assert drawn_mean == pytest.approx(sum(shares) / len(shares))
    weighted = frame.filter(update="dpo", matrix="mean, weighted", layer=2)["sparsity_pct"].item()
    close, n = (sum(t[key] for t in counted) for key in ("isclose_bf16_1e-5", "n"))
    assert weighted == pytest.approx(100 * close / n)
    value = next(t for t in counted if t["matrix"] == "V")
    drawn_value = frame.filter(update="dpo", matrix="V", layer=2)["sparsity_pct"].item()
    assert drawn_value == pytest.approx(100 * value["isclose_bf16_1e-5"] / value["n"])
    norms = [t for t in counted if t["matrix"] == "norm"]
    drawn_norm = frame.filter(update="dpo", matrix="norm", layer=2)["sparsity_pct"].item()
    close, n = (sum(t[key] for t in norms) for key in ("isclose_bf16_1e-5", "n"))
    assert drawn_norm == pytest.approx(100 * close / n)


def test_figure_3_has_a_line_for_every_kind_of_matrix_in_a_layer():
    from subnetworks.checkpoints.tensors import MATRICES

    assert set(MATRICES) - {"embedding", "head", "other"} <= set(style.MATRICES)


def test_figure_3_leaves_gaps_where_the_plot_could_not_be_read(drawn):
    _, frame = drawn["figure_3_layerwise_sparsity"]
    gap = frame.filter(source="paper", algorithm="DPO", matrix="mean, unweighted", layer=5)
    assert gap["sparsity_pct"].to_list() == [None]


def test_figure_4_difference_is_the_masked_runs_minus_the_full_ones(drawn, results):
    _, frame = drawn["figure_4_training_loss"]
    values = {}
    for run in ("dpo", "dpo_subnetwork"):
        with open(results / "runs" / run / "log.csv", newline="") as handle:
            values[run] = [float(row["loss"]) for row in csv.DictReader(handle)]
    apart = [m - f for m, f in zip(values["dpo_subnetwork"], values["dpo"], strict=True)]
    dpo = frame.filter(algorithm="DPO")
    assert dpo["difference"].to_list() == pytest.approx(apart)
    window, middle = dpo["window"][0], 30
    around = apart[middle - window // 2 : middle + window // 2 + 1]
    mean = sum(around) / window
    error = math.sqrt(sum((d - mean) ** 2 for d in around) / (window - 1) / window)
    assert dpo["difference_smoothed"][middle] == pytest.approx(mean)
    assert dpo["difference_stderr"][middle] == pytest.approx(error)
    assert set(frame.filter(algorithm="GRPO")["measure"]) == {"reward"}


def test_figure_4_names_an_empty_column(made_up, results):
    pair = {"algorithm": "DPO", "full": "dpo", "subnetwork": "dpo_subnetwork"}
    context = Context(results, PUBLISHED, {"pairs": [pair | {"measure": "reward"}]})
    with pytest.raises(UserError, match="nothing in column 'reward'"):
        artefacts.load("figure_4_training_loss", Figure).draw(context)


def test_figure_2_parts_are_all_the_weights(drawn, results):
    figure, frame = drawn["figure_2_gradient_shares"]
    counted = json.loads((results / "trajectories" / "grpo.json").read_text())
    ours = dict(frame.filter(run="grpo").select("part", "pct").iter_rows())
    assert ours == {
        part: pytest.approx(100 * counted[part] / counted["n"])
        for part in ("never", "cancelled", "final")
    }
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sum(widths[:3]) == pytest.approx(100)
    assert widths[:3] == pytest.approx(list(ours.values()))
    theirs = dict(frame.filter(source="paper").select("part", "pct").iter_rows())
    assert theirs == {"never": 72, "cancelled": 8, "final": 20}


@pytest.mark.parametrize(
    ("name", "column", "of", "published", "start"),
    [
        ("figure_5_sparsity_over_training", "sparsity_pct", "sparsity", "sparsity_pct", 100),
        (
            "figure_6_outside_final_mask",
            "outside_final_pct",
            "outside_final_share",
            "changed_outside_final_mask_pct",
            0,
        ),
    ],
)
def test_figures_5_and_6_draw_every_saved_step(drawn, results, name, column, of, published, start):
    figure, frame = drawn[name]
    steps = json.loads((results / "trajectories" / "dpo.json").read_text())["steps"]
    line = figure.axes[0].get_lines()[1]
    assert line.get_xdata().tolist() == [0, *(s["step"] for s in steps)]
    assert line.get_ydata().tolist() == pytest.approx([start, *(100 * s[of] for s in steps)])
    assert frame.filter(run="dpo")[column].to_list() == line.get_ydata().tolist()
    number = name.split("_")[1]
    (path,) = PUBLISHED.glob(f"figure{number}_*_digitised.csv")
    with open(path, newline="") as handle:
        printed = [float(row[published]) for row in csv.DictReader(handle)]
    assert frame.filter(source="paper")[column].to_list() == printed
    assert "digitised" in figure.axes[1].get_title(loc="left")


def test_figure_7_sets_accuracy_beside_both_sparsities(drawn, results):
    figure, frame = drawn["figure_7_accuracy_and_intervals"]
    steps = json.loads((results / "trajectories" / "grpo.json").read_text())["steps"]
    ours = frame.filter(run="grpo")
    since_init, between = figure.axes[0].get_lines()
    assert since_init.get_ydata().tolist()[1:] == pytest.approx(
        [100 * s["sparsity"] for s in steps]
    )
    assert between.get_xdata().tolist() == [s["step"] for s in steps]
    assert between.get_ydata().tolist() == pytest.approx(
        [100 * s["sparsity_consecutive"] for s in steps]
    )
    with open(results / "runs" / "grpo" / "log.csv", newline="") as handle:
        logged = [100 * float(row["accuracy"]) for row in csv.DictReader(handle)]
    assert ours["step"].to_list() == list(range(len(logged) + 1))
    assert ours["accuracy_pct"].to_list() == [None, *map(pytest.approx, logged)]
    middle = sum(logged[24:35]) / 11  # step 30, saves ten steps apart
    assert ours.filter(step=30)["accuracy_smoothed_pct"].item() == pytest.approx(middle)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_specification_is_refused(results, name):
    with pytest.raises(UserError, match="at least one"):
        artefacts.load(name, Figure).draw(Context(results, PUBLISHED, {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_smaller_than_seven_points_or_overlaps(drawn, name):
    figure, _ = drawn[name]
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= style.DOUBLE
    for axes in figure.axes:
        labels = [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent() for t in labels]
        assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))
        for text in [*labels, axes.xaxis.label, axes.yaxis.label, axes.title]:
            assert text.get_fontsize() >= 7


def test_figures_tables_and_report_need_their_own_packages_only():
    allowed = {
        "subnetworks",
        "jinja2",
        "pydantic",
        "numpy",
        "polars",
        "matplotlib",
        "scipy",
        *sys.stdlib_module_names,
    }
    source = Path(artefacts.__file__).parents[1]
    modules = [path for part in ("artefacts", "report") for path in source.glob(f"{part}/*.py")]
    for path in [*modules, source / "core" / "results.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(str(node.module))
            assert {name.split(".")[0] for name in names} <= allowed, path
