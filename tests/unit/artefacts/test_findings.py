"""A finding appears, or does not, as the numbers have it."""

from pathlib import Path

import pytest

polars = pytest.importorskip("polars")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from fabricate import write_table as write  # noqa: E402

from subnetworks import artefacts  # noqa: E402
from subnetworks.artefacts import Figure  # noqa: E402
from subnetworks.artefacts.published import Published  # noqa: E402
from subnetworks.report.contents import judged  # noqa: E402

PAPER = Published(Path(__file__).resolve().parents[3] / "workflow" / "published")


def verdict(results, beginning):
    (found,) = [f for f in judged(results, PAPER)[0] if f.claim.startswith(beginning)]
    return found.appears


def sparsity(label, value, bits=None):
    bits = value if bits is None else bits
    return {"label": label, "algorithm": label, "sparsity_pct": value, "bit_equal_pct": bits}


@pytest.mark.parametrize(
    ("sft", "rl", "expected"),
    [(2.0, (56.0, 50.0), "yes"), (40.0, (56.0, 45.0), "unclear"), (60.0, (56.0, 50.0), "no")],
)
def test_sft_dense_and_rl_sparse(tmp_path, sft, rl, expected):
    rows = [sparsity("SFT", sft), sparsity("GRPO", rl[0]), sparsity("DPO", rl[1])]
    write(tmp_path, "table_1_update_sparsity", *rows)
    assert verdict(tmp_path, "SFT changes nearly all") == expected


def test_sparsity_by_tolerance_alone_is_no_sparsity(tmp_path):
    write(tmp_path, "table_1_update_sparsity", sparsity("GRPO", 80.0, bits=5.0))
    assert verdict(tmp_path, "… and not by the tolerance") == "no"


@pytest.mark.parametrize(("placebo", "expected"), [(90.0, "yes"), (40.0, "no")])
def test_a_placebo_is_a_control_and_no_rl(tmp_path, placebo, expected):
    rows = [sparsity("SFT", 2.0), sparsity("GRPO", 56.0), sparsity("Placebo", placebo)]
    write(tmp_path, "table_1_update_sparsity", *rows)
    assert verdict(tmp_path, "Random rewards change fewer") == expected
    assert verdict(tmp_path, "RL leaves most weights") == "yes"


@pytest.mark.parametrize(("at_1e_6", "expected"), [(50.5, "yes"), (60.0, "no")])
def test_sparsity_hangs_on_the_tolerance_or_not(tmp_path, at_1e_6, expected):
    row = {"label": "DPO", "sparsity_1e-8_pct": 50.0, "sparsity_1e-5_pct": 70.0}
    write(tmp_path, "table_6_tolerance_sweep", row | {"sparsity_1e-6_pct": at_1e_6})
    assert verdict(tmp_path, "Up to 1e-6 the tolerance") == expected


@pytest.mark.parametrize(
    ("gain", "difference", "appears"),
    [
        ((5, 1), (0.5, 0.5), ("yes", "yes")),
        ((5, 1), (0.5, 1), ("yes", "unclear")),  # not to differ is not to be as good
        ((5, 1), (-1, 0.3), ("yes", "yes")),  # worse, but by less than two points
        ((5, 1), (3, 1), ("yes", "yes")),
        ((1, 1), (-3, 1), ("no", "no")),
    ],
)
def test_accuracy_counts_only_beyond_the_noise(tmp_path, gain, difference, appears):
    row = {"algorithm": "GRPO", "benchmark": "math500", "group": "all"}
    row |= {"gain": gain[0], "gain_stderr": gain[1]}
    row |= {"difference": difference[0], "difference_stderr": difference[1]}
    write(tmp_path, "table_3_subnetwork_accuracy", row)
    assert verdict(tmp_path, "RL scores above its start") == appears[0]
    assert verdict(tmp_path, "Training within the subnetwork") == appears[1]


def test_agreement_must_beat_both_baselines(tmp_path):
    def row(compared, equal, moved=None):
        numbers = {"equal_1e-5_pct": equal, "equal_1e-4_pct": 99.0, "outside_moved": moved}
        return {"algorithm": "GRPO", "compared": compared} | numbers

    rows = [row("full and subnetwork", 80.0, 3), row("full and init", 55.0)]
    write(tmp_path, "conjecture_1_agreement", *rows, row("full and another seed", 82.0))
    assert verdict(tmp_path, "Masked training ends") == "unclear"
    assert verdict(tmp_path, "Masked-out weights") == "no"


@pytest.mark.parametrize(("chance", "expected"), [(74.5, "no"), (73.9, "unclear"), (70.0, "yes")])
def test_overlap_may_beat_uniform_chance_and_not_chance_by_magnitude(tmp_path, chance, expected):
    row = {"label": "tasks", "o1_pct": 74.0, "o2_pct": 74.0}
    row |= {"uniform_o1_pct": 46.0, "uniform_o2_pct": 46.0}
    row |= {"by_magnitude_o1_pct": chance, "by_magnitude_o2_pct": chance}
    write(tmp_path, "table_4_overlap", row)
    assert verdict(tmp_path, "Subnetworks of two runs overlap") == "yes"
    assert verdict(tmp_path, "… also than by chance matched by magnitude") == expected


@pytest.mark.parametrize(
    ("foreign", "at_one_rate"),
    [((30.0, 20.0), "yes"), ((80.0, 70.0), "no"), ((55.0, 5.0), "unclear")],
)
def test_what_the_data_do_is_judged_at_one_learning_rate_too(tmp_path, foreign, at_one_rate):
    def row(label, own, rate, value):
        return sparsity(label, value) | {"in_distribution": own, "learning_rate": rate}

    write(
        tmp_path,
        "table_5_in_distribution",
        row("RFT", True, 1e-6, 60.0),
        row("DPO", True, 1e-6, 50.0),
        *(row("foreign", False, 1e-6, value) for value in foreign),
        row("SFT", False, 1e-3, 2.0),
    )
    assert verdict(tmp_path, "… also at one learning rate (1e-6)") == at_one_rate


def draw(results, name, *rows):
    schema = artefacts.load(name, Figure).types
    rows = [dict.fromkeys(schema) | {"source": "here", "label": "GRPO"} | row for row in rows]
    (results / "figures").mkdir(exist_ok=True, parents=True)
    polars.DataFrame(rows, schema=schema).write_csv(results / "figures" / f"{name}.csv")
    write(results, "table_1_update_sparsity", sparsity("GRPO", 80.0))


@pytest.mark.parametrize(
    ("never", "cancelled", "expected"), [(72, 8, ("yes", "yes")), (40, 20, ("no", "no"))]
)
def test_weights_never_updated_or_cancelled(tmp_path, never, cancelled, expected):
    parts = {"never": never, "cancelled": cancelled, "final": 100 - never - cancelled}
    rows = [{"part": part, "pct": pct} for part, pct in parts.items()]
    paper = {"source": "paper", "label": "PRIME", "part": "never", "pct": 1.0}
    draw(tmp_path, "figure_2_gradient_shares", *rows, paper)
    assert verdict(tmp_path, "Most weights are never updated") == expected[0]
    assert verdict(tmp_path, "… and few were updated") == expected[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((100, 70, 60), ("yes", "yes")),
        ((100, 90, 60), ("yes", "no")),
        ((100, 60, 70), ("no", "yes")),
    ],
)
def test_sparsity_over_training(tmp_path, values, expected):
    rows = [{"step": 5 * k, "sparsity_pct": value} for k, value in enumerate(values)]
    draw(tmp_path, "figure_5_sparsity_over_training", *rows)
    assert verdict(tmp_path, "Sparsity falls as training goes on") == expected[0]
    assert verdict(tmp_path, "… and ever more slowly") == expected[1]


@pytest.mark.parametrize(("most", "expected"), [(3.2, "yes"), (12.0, "no")])
def test_changes_outside_the_final_mask(tmp_path, most, expected):
    rows = [{"step": 5 * k, "outside_final_pct": v} for k, v in enumerate((0, most, 0))]
    draw(tmp_path, "figure_6_outside_final_mask", *rows)
    assert verdict(tmp_path, "Few weights change on the way") == expected


@pytest.mark.parametrize(
    ("between", "late", "expected"), [(95.0, 90, ("yes", "yes")), (50.0, 41, ("no", "no"))]
)
def test_saves_are_sparse_and_accuracy_rises_beyond_noise(tmp_path, between, late, expected):
    accuracy = [40, 44, 36, 40, *[60] * 8, late, late + 4, late - 4, late]
    rows = [{"step": k, "accuracy_pct": value} for k, value in enumerate(accuracy, 1)]
    rows[7] |= {"sparsity_pct": 75.0, "sparsity_consecutive_pct": 75.0}
    rows[15] |= {"sparsity_pct": 60.0, "sparsity_consecutive_pct": between}
    draw(tmp_path, "figure_7_accuracy_and_intervals", *rows)
    assert verdict(tmp_path, "From save to save few weights") == expected[0]
    assert verdict(tmp_path, "Accuracy in training rises") == expected[1]


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ([-0.3, -0.2] * 8, "yes"),
        ([0.3, 0.2] * 8, "no"),
        # Four waves: on average below, and as far above as below from one to the next.
        ([-0.4] * 4 + [0.3] * 4 + [-0.4] * 4 + [0.3] * 4, "unclear"),
    ],
)
def test_a_loss_is_lower_beyond_what_neighbouring_steps_have_in_common(tmp_path, late, expected):
    schema = artefacts.load("figure_4_training_loss", Figure).types
    rows = [
        dict.fromkeys(schema)
        | {"algorithm": "DPO", "measure": "loss", "step": step, "difference": value}
        for step, value in enumerate([5.0] * 16 + late)
    ]
    (tmp_path / "figures").mkdir()
    drawn = polars.DataFrame(rows, schema=schema)
    drawn.write_csv(tmp_path / "figures" / "figure_4_training_loss.csv")
    write(tmp_path, "table_1_update_sparsity", sparsity("GRPO", 80.0))
    assert verdict(tmp_path, "The loss of masked DPO") == expected


@pytest.mark.parametrize(
    ("with_it", "expected"), [(55.5, "yes"), (50.0, "yes"), (57.0, "unclear"), (90.0, "no")]
)
def test_a_regulariser_is_why_or_is_not(tmp_path, with_it, expected):
    """Allowed are 5 points; noise of a difference: two degrees of freedom, 4.30 errors, 4.3."""
    row = {"ablation": "KL", "algorithm": "GRPO", "batch_size": 16, "steps": 60}
    noise = {"change_stderr_pct": 1.0, "degrees_of_freedom": 2}
    write(
        tmp_path,
        "section_6_ablations",
        row | {"regularised": False, "sparsity_pct": 55.0},
        row | noise | {"regularised": True, "sparsity_pct": with_it},
    )
    assert verdict(tmp_path, "Neither KL nor gradient clipping") == expected


@pytest.mark.parametrize(
    ("large", "by_steps", "expected"),
    [(85.0, 88.0, ("yes", "yes")), (85.0, 55.0, ("yes", "no")), (85.0, 70.0, ("yes", "unclear"))],
)
def test_a_larger_batch_is_sparser_by_its_steps_or_its_size(tmp_path, large, by_steps, expected):
    def row(batch, steps, value):
        facts = {"ablation": "batch", "batch_size": batch, "steps": steps}
        return facts | {"sparsity_pct": value}

    rows = [row(32, 100, 54.0), row(128, 25, large), row(32, 25, by_steps)]
    write(tmp_path, "section_6_ablations", *rows)
    assert verdict(tmp_path, "A larger batch leaves DPO sparser") == expected[0]
    assert verdict(tmp_path, "… since it makes fewer steps") == expected[1]


def test_batches_of_runs_whose_steps_are_not_told_are_compared_all_the_same(tmp_path):
    rows = [
        {"ablation": "batch", "batch_size": batch, "sparsity_pct": value}
        for batch, value in ((32, 54.0), (128, 85.0))
    ]
    write(tmp_path, "section_6_ablations", *rows)
    assert verdict(tmp_path, "A larger batch leaves DPO sparser") == "yes"
    assert not [f for f in judged(tmp_path, PAPER)[0] if "fewer steps" in f.claim]
