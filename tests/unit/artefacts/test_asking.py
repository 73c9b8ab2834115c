"""What an experiment asks of its tables and figures, checked and filled in before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")

from subnetworks import artefacts
from subnetworks.artefacts.asking import asked
from subnetworks.artefacts.published import Published
from subnetworks.core.errors import UserError
from subnetworks.core.validation import Origin
from subnetworks.experiment import Experiment

PUBLISHED = Path(__file__).resolve().parents[3] / "workflow" / "published"
RUN = {"init": "base", "data": "problems", "steps": 3, "learning_rate": 1e-6}
SECTIONS: dict[str, Any] = {
    **{section: {} for section in ("masks", "benchmarks", "evaluation", "overlaps")},
    "checkpoints": {"base": {"make": "base"}, "other": {"path": "/other"}},
    "datasets": {"problems": {"make": "problems"}},
    "runs": {
        "grpo": {"algorithm": "grpo", **RUN, "trajectory_every": 1},
        "dpo": {"algorithm": "dpo", **RUN},
    },
    "updates": {
        "grpo": {"before": "base", "after": "grpo"},
        "dpo": {"before": "base", "after": "dpo"},
        "other": {"before": "base", "after": "other"},
    },
    "agreements": {"grpo": {"full": "grpo", "subnetwork": "dpo", "baselines": {"init": "base"}}},
}


def ask(**shown: Any) -> dict[str, Any]:
    sections = {"tables": {}, "figures": {}, **SECTIONS, **shown}
    origin = Origin("small.yaml")
    return asked(Experiment(name="small", source=Path("small.yaml"), origin=origin, **sections))


def told(name: str, **shown: Any) -> dict[str, Any]:
    return json.loads(ask(**shown)[name].told)


def test_rows_are_filled_in_with_what_their_runs_say() -> None:
    name = "table_5_in_distribution"
    rows = [
        {"update": "grpo", "in_distribution": True},
        {"update": "other", "in_distribution": False},
    ]
    grpo, other = told(name, tables={name: {"updates": rows}})["updates"]
    assert grpo == {**rows[0], "algorithm": "GRPO", "learning_rate": 1e-6, "steps": 3}
    assert other == rows[1]


def test_a_row_may_say_otherwise() -> None:
    name = "table_1_update_sparsity"
    rows = [{"update": "grpo", "algorithm": "RLOO", "kl": True}]
    (row,) = told(name, tables={name: {"updates": rows}})["updates"]
    assert (row["algorithm"], row["kl"], row["on_policy"]) == ("RLOO", True, True)


def test_what_is_read_is_what_is_named() -> None:
    wish = ask(tables={"conjecture_1_agreement": {"agreements": [{"agreement": "grpo"}]}})
    assert wish["conjecture_1_agreement"].reads == [
        *("updates/grpo_agreement.json", "overlaps/grpo_within.json"),
        "updates/grpo_agreement_init.json",
    ]
    assert wish["table_4_overlap"].reads == []
    assert wish["table_4_overlap"].told == "{}"
    runs = [{"run": "grpo"}]
    wish = ask(figures={"figure_7_accuracy_and_intervals": {"runs": runs}})
    assert wish["figure_7_accuracy_and_intervals"].reads == [
        *("trajectories/grpo.json", "runs/grpo/log.csv"),
    ]


def test_masks_before_training_read_no_scores_without_a_benchmark() -> None:
    row = {"of": "grpo", "label": "all", "kind": "full", "trained": "grpo", "algorithm": "GRPO"}
    spec: dict[str, Any] = {"masks": [row]}
    log, scores = "runs/grpo/log.csv", "evaluation/grpo/scores.json"
    name = "control_predicted_masks"
    assert ask(tables={name: spec})[name].reads == [log]
    spec["benchmark"] = "math500"
    wish = ask(tables={name: spec}, benchmarks={"math500": {"make": "math500"}})
    assert set(wish[name].reads) == {log, scores}


@pytest.mark.parametrize(
    ("kind", "name", "spec", "words"),
    [
        ("tables", "table_9", {}, "tables: 'table_9' is not allowed"),
        ("tables", "figure_1_sft_vs_rl", {}, "tables: 'figure_1_sft_vs_rl' is not allowed"),
        (
            *("tables", "table_1_update_sparsity", {"updates": [{"update": "grop"}]}),
            "tables.table_1_update_sparsity.update: no update 'grop' (did you mean 'grpo'?); "
            "there are: dpo, grpo, other",
        ),
        (
            *("tables", "table_1_update_sparsity", {"updates": [{"update": "dpo", "KL": 1}]}),
            "tables.table_1_update_sparsity.updates.0: unknown key 'KL'",
        ),
        (
            *("tables", "table_1_update_sparsity", {"updates": []}),
            "tables.table_1_update_sparsity.updates: needs at least 1",
        ),
        (
            *("figures", "figure_5_sparsity_over_training", {"runs": [{"run": "dpo"}]}),
            "no run with trajectory_every 'dpo'; there are: grpo",
        ),
        (
            *("tables", "control_masks"),
            {"benchmark": "b", "masks": [{"label": "x", "kind": "mine", "full": "dpo"}]},
            "tables.control_masks.masks.0.kind: 'mine' is not allowed",
        ),
        (
            *("tables", "section_6_ablations"),
            {"ablations": [{"ablation": "a", "setting": "s", "of": [{"run": "grpo"}]}]},
            "ablations.0.of.0: needs an update, or a run and a step of it",
        ),
        (
            *("figures", "figure_4_training_loss"),
            {"pairs": [{"full": "other", "subnetwork": "dpo"}]},
            "pairs.0: missing key 'algorithm': no run of the experiment says it",
        ),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(
    kind: str, name: str, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as raised:
        ask(**{kind: {name: spec}})
    message = str(raised.value)
    assert message.startswith("small.yaml: ") and words in message
    assert "\n" not in message


def test_captions_quote_the_papers_tables(tmp_path: Path) -> None:
    """Another number in the table is another number in the caption."""
    made = artefacts.every()["table_4_overlap"]
    assert "60.5 % over seeds where uniform chance gives 36.7 %" in made.captioned(
        Published(PUBLISHED)
    )
    text = (PUBLISHED / "table4_overlap.csv").read_text()
    (tmp_path / "table4_overlap.csv").write_text(text.replace(",60.5,", ",12.3,"))
    assert "12.3 % over seeds" in made.captioned(Published(tmp_path))
    with pytest.raises(UserError, match=r"table1_update_sparsity\.csv: no such file"):
        artefacts.every()["table_1_update_sparsity"].captioned(Published(tmp_path))


def test_every_artefact_is_whole() -> None:
    every = artefacts.every()
    assert len(every) > 20
    for name, made in every.items():
        assert made.caption.startswith("**"), name
        assert len(made.line) > 20, name
        assert made.source.stem == name
        assert made.is_control == name.startswith("control_")
        assert "{" not in made.captioned(Published(PUBLISHED)), name
    papers = [name for name, made in every.items() if not made.is_control]
    assert list(every)[: len(papers)] == papers
