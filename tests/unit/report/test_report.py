"""The report: one page that opens from disk, and what it says."""

import base64
import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("polars")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from fabricate import write_table as written

from subnetworks import artefacts, report
from subnetworks.artefacts.published import Published
from subnetworks.cli.figure import figure
from subnetworks.cli.table import table
from subnetworks.cli.times import times as print_times
from subnetworks.report import captions, origins, times
from subnetworks.report.contents import judged

ROOT = Path(__file__).resolve().parents[3]
PAPER = Published(ROOT / "workflow" / "published")
CHANCE = {
    "label": "GRPO, placebo",
    "varied": "reward",
    "times_uniform": 1.5,
    "times_by_magnitude": 1.01,
    "of_rest_pct": 2.0,
}
# One run as logged now, one as an earlier version logged it, one that diverged, one without.
LOGS = {
    "held_dpo": "step,loss,validation_loss,validation_accuracy,validation_examples\n"
    "1,0.7,0.69,0.5,100\n2,0.6,,,\n3,0.5,0.59,0.8,100\n4,0.4,0.61,0.75,100\n",
    "held_grpo": "step,loss,validation_accuracy\n1,0,\n2,0,0.125\n",
    "held_sft": "step,loss,validation_loss,validation_examples\n1,2,nan,5\n2,2,2.5,5\n3,2,inf,5\n",
    "unmeasured": "step,loss\n1,0.5\n",
}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Tags with attributes, in order; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data

    def values(self, tag, attribute):
        return [found[attribute] for name, found in self.tags if name == tag and attribute in found]


def record(path, command, wall, **facts):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "command": ["subnetworks", *command],
        "started": "2026-01-02T03:04:05Z",
        "wall_time_s": wall,
        "commit": "abc123",
        "dirty": False,
        "python": "3.11.7",
        "machine": {"system": "Linux", "cores": 2, "processor": "A chip"},
        "peak_memory_bytes": {"self": 2**30, "largest_child": 3 * 2**30},
        "packages": {"torch": "2.13.0"},
        **facts,
    }
    path.write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def finished(made_up, tmp_path_factory):
    """A made-up experiment with its tables, figures and records."""
    results = made_up.make(tmp_path_factory.mktemp("report") / "mini")
    for name, spec in made_up.SPECS.items():
        verb = figure if name.startswith("figure") else table
        folder = results / ("figures" if verb is figure else "tables")
        verb(name, json.dumps(spec), results, folder, ROOT / "workflow" / "published")
    for path in results.rglob("*.meta.json"):
        path.unlink()
    settings = {"algorithm": "dpo", "seed": 7, "steps": 100, "learning_rate": 1.5e-6, "beta": 0.1}
    train = ["train", "--init", "c/sft", "--data", "d/pairs", "--mask", "m/dpo.safetensors"]
    trained = results / "checkpoints" / "dpo_subnetwork" / "manifest.json.meta.json"
    record(trained, train, 30.0, settings=settings)
    record(results / "runs" / "dpo_subnetwork" / "log.csv.meta.json", train, 30.0)
    for name, log in LOGS.items():
        (results / "runs" / name).mkdir(parents=True, exist_ok=True)
        (results / "runs" / name / "log.csv").write_text(log)
    for name, seconds in (("math500.json", 4.0), ("scores.json", 50.0)):
        path = results / "evaluation" / "dpo" / f"{name}.meta.json"
        record(path, ["evaluate", "c/dpo"], seconds, packages={"vllm": "0.31.0"})
    return results


@pytest.fixture(scope="module")
def gathered(finished):
    return report.gather(finished)


@pytest.fixture(scope="module")
def page(gathered):
    return Page(report.to_html(gathered))


def test_nothing_is_fetched_and_every_link_leads_somewhere(page, finished):
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    links = page.values("a", "href")
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("data:"):
            assert (finished / link).is_file(), link
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    assert all(source.startswith("data:image/png;base64,") for source in page.values("img", "src"))
    # Every table and figure is in the contents and has its data.
    for name in (*(t.name for t in tables_of(finished)), *drawn_in(finished)):
        assert f"#{name}" in links
        folder = "figures" if name.startswith("figure") else "tables"
        assert f"{folder}/{name}.csv" in links


def tables_of(results):
    return report.gather(results).tables


def drawn_in(results):
    return [path.stem for path in (results / "figures").glob("*.png")]


def test_a_page_sent_alone_holds_its_pictures_and_data(page, finished):
    pictures = {base64.b64decode(s.split(",", 1)[1]) for s in page.values("img", "src")}
    assert pictures == {path.read_bytes() for path in (finished / "figures").glob("*.png")}
    embedded = {
        found["download"]: base64.b64decode(found["href"].split(",", 1)[1])
        for tag, found in page.tags
        if tag == "a" and "download" in found
    }
    files = [*finished.glob("tables/*.csv"), *finished.glob("figures/*.csv")]
    assert embedded == {path.name: path.read_bytes() for path in files}


def test_large_data_are_linked_only(gathered, monkeypatch):
    monkeypatch.setattr("subnetworks.report.html.LARGEST_EMBEDDED", 0)
    assert not [s for s in Page(report.to_html(gathered)).values("a", "href") if "base64" in s]


def test_pictures_are_described_and_phones_told_their_width(page):
    assert all(len(alt) > 40 for alt in page.values("img", "alt"))
    assert len(page.values("img", "alt")) == len(page.values("img", "src")) > 0
    assert "width=device-width, initial-scale=1" in page.values("meta", "content")


def test_captions_are_those_of_the_artefacts(page, finished):
    for name in drawn_in(finished):
        caption = artefacts.every()[name].captioned(PAPER)
        words = captions.to_plain(captions.to_html(caption)).replace(" %", "\u00a0%")
        assert words in page.text


def test_what_controls_say_stands_with_them_and_with_what_remains(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "mini")
    written(tmp_path / "mini", "control_chance", CHANCE)
    gathered = report.gather(tmp_path / "mini")
    ((control, sentence),) = gathered.said
    assert (control.name, control.is_control) == ("control_chance", True)
    page = Page(report.to_html(gathered))
    assert page.text.count(sentence) == 2
    assert page.values("a", "href").count("#control_chance") == 2
    assert sentence in report.to_markdown(gathered)


def test_a_caption_is_escaped_and_marked():
    shown = captions.to_html("**A < B.** Of *all*\nweights, ``x_y``; 2 * 3 * 4.")
    assert (
        shown == "<strong>A &lt; B.</strong> Of <em>all</em> weights, <code>x_y</code>; 2 * 3 * 4."
    )
    assert captions.to_plain(shown) == "A < B. Of all weights, x_y; 2 * 3 * 4."


def test_settings_tell_where_a_run_started_and_kept_to(gathered, page):
    (run,) = gathered.runs
    assert (run.name, run.init, run.data, run.mask) == ("dpo_subnetwork", "sft", "pairs", "dpo")
    assert run.cells["learning_rate"] == "1.5e-6"
    assert run.further == ("beta 0.1",)
    for words in ("dpo_subnetwork", "beta 0.1", "1.5e-6"):
        assert words in page.text


def test_what_runs_scored_on_rows_held_out_is_shown(gathered, page):
    written = report.to_markdown(gathered)
    assert [line for line in written.splitlines() if line.startswith("| held_")] == [
        "| held_dpo | loss | 100 | 0.6900 (step 1) | 0.5900 (step 3) | 0.6100 (step 4) |",
        "| held_dpo | accuracy | 100 | 50.0 ± 5.0 % (step 1) | 80.0 ± 4.0 % (step 3) "
        "| 75.0 ± 4.3 % (step 4) |",
        "| held_grpo | accuracy | – | 12.5 % (step 2) | 12.5 % (step 2) | 12.5 % (step 2) |",
        "| held_sft | loss | 5 | nan (step 1) | 2.5000 (step 2) | inf (step 3) |",
    ]
    assert "unmeasured" not in written
    assert "80.0 ± 4.0\u00a0% (step 3)" in page.text
    drawn = [points.split() for points in page.values("polyline", "points")]
    # The lowest loss is at the bottom, the last step at the right; one value in the middle.
    assert drawn[0] == ["0.0,0.0", "80.0,24.0", "120.0,19.2"]
    assert drawn[2:] == [["0.0,12.0"], ["0.0,12.0"]]
    assert "#held_out" in page.values("a", "href")


def test_without_rows_held_out_there_is_no_section_of_them(gathered):
    without = dataclasses.replace(gathered, held_out=[])
    assert "held out" not in report.to_markdown(without).lower()
    assert 'id="held_out"' not in report.to_html(without)


def test_weights_are_said_to_be_trained_in_float32_and_saved_in_bf16(page):
    sentences = " ".join(page.text.split())
    assert "AdamW throughout. Unless a run says otherwise, it has float32 weights" in sentences
    assert "its checkpoint is saved in bf16 (save_dtype)" in sentences


def test_a_job_counts_once_whatever_it_wrote(gathered):
    by_verb = {stage.verb: stage for stage in gathered.origins.stages}
    assert (by_verb["train"].jobs, by_verb["train"].seconds) == (1, 30.0)
    assert (by_verb["evaluate"].jobs, by_verb["evaluate"].seconds) == (1, 50.0)
    assert gathered.origins.seconds == 80.0
    assert gathered.origins.peak_bytes == 3 * 2**30
    assert gathered.origins.machines == [("A chip, 2 cores, Linux, Python 3.11.7", 2)]
    assert gathered.origins.packages == [
        (["train"], {"torch": "2.13.0"}),
        (["evaluate"], {"vllm": "0.31.0"}),
    ]


def test_results_without_records_have_a_report_too(tmp_path):
    assert origins.read_origins(tmp_path).jobs == 0


def test_the_gist_fits_the_terminal(gathered):
    lines = report.to_terminal(gathered).splitlines()
    assert 5 <= len(lines) <= 10
    assert max(map(len, lines)) <= 100
    counted = sum(gathered.count(verdict) for verdict in ("yes", "unclear", "no"))
    assert lines[0].startswith(f"mini: of {counted} effects")


def left(results, beginning, control):
    (found,) = [
        c
        for c in judged(results, PAPER)[1]
        if c.effect.startswith(beginning) and c.control.startswith(control)
    ]
    return found.left, found.verdict


@pytest.mark.parametrize(
    ("chance", "share", "verdict"),
    [(46.0, 1.0, "stays"), (60.0, 0.5, "shrinks"), (75, 0, "vanishes")],
)
def test_what_is_left_of_an_overlap(tmp_path, chance, share, verdict):
    row = {"label": "seeds", "o1_pct": 74.0, "uniform_o1_pct": 46.0}
    written(tmp_path, "table_4_overlap", row | {"by_magnitude_o1_pct": chance})
    remaining, shown = left(tmp_path, "Subnetworks overlap", "chance matched by magnitude")
    assert (remaining, shown) == (pytest.approx(share), verdict)


def test_an_effect_that_is_not_there_is_absent(tmp_path):
    row = {"label": "seeds", "o1_pct": 40.0, "uniform_o1_pct": 46.0}
    written(tmp_path, "table_4_overlap", row | {"by_magnitude_o1_pct": 46.0})
    found = left(tmp_path, "Subnetworks overlap", "chance matched by magnitude")
    assert found == (None, "absent")


def test_what_is_left_of_a_subnetwork_under_random_rewards(tmp_path):
    def row(algorithm, value):
        return {"algorithm": algorithm, "sparsity_pct": value, "bit_equal_pct": value}

    written(tmp_path, "table_1_update_sparsity", row("GRPO", 60.0), row("Placebo", 90.0))
    remaining, verdict = left(tmp_path, "RL changes a subnetwork", "random rewards")
    assert (remaining, verdict) == (pytest.approx(0.75), "shrinks")
    assert left(tmp_path, "RL leaves weights unchanged", "bit equality") == (1.0, "stays")


@pytest.mark.parametrize(("same", "share"), [(10.0, 0.8), (50.0, 0.0), (60.0, 0.0)])
def test_what_is_left_of_sft_at_the_learning_rate_of_rl(tmp_path, same, share):
    def row(algorithm, own, rate, value):
        facts = {"algorithm": algorithm, "label": algorithm, "in_distribution": own}
        return facts | {"learning_rate": rate, "sparsity_pct": value}

    written(
        tmp_path,
        "table_5_in_distribution",
        row("DPO", True, 1e-6, 50.0),
        row("SFT", False, 1e-3, 0.0),
        row("SFT", False, 1e-6, same),
    )
    assert left(tmp_path, "SFT is dense", "one learning rate")[0] == pytest.approx(share)


def spent(tmp_path):
    """Two trainings, one resumed and of an earlier version, an evaluation, and what is short."""
    results = tmp_path / "mini"
    run = ["train", "--run-folder", "results/mini/runs/{}"]
    record(
        results / "checkpoints" / "grpo" / "manifest.json.meta.json",
        [word.format("grpo") for word in run],
        100.0,
        started="2026-01-02T03:00:00Z",
        seconds_before=2.0,
        seconds={"start": 40.0, "steps": 50.0, "sampling": 20.0, "saving": 5.0},
    )
    record(
        results / "checkpoints" / "dpo" / "manifest.json.meta.json",
        [word.format("dpo") for word in run],
        30.0,
        started="2026-01-02T03:01:00Z",
        resumed_from_step=1,
    )
    (results / "runs" / "dpo").mkdir(parents=True)
    (results / "runs" / "dpo" / "log.csv").write_text("step,seconds\n1,9\n2,3\n3,4\n")
    for checkpoint in ("grpo", "dpo"):  # one command scored both
        folder = results / "evaluation" / checkpoint
        record(
            folder / "scores.json.meta.json",
            ["evaluate", "grpo", "dpo"],
            20.0,
            started="2026-01-02T03:10:00Z",
        )
        (folder / "scores.json").write_text('{"seconds": {"all": 20.0, "loading": 11.0}}')
        (folder / "math500.json").write_text('{"seconds": 6.0}')
    for verb, seconds in (("transfer", 3.0), ("rank", 2.0), ("table", 1.0)):
        record(
            results / f"{verb}.json.meta.json", [verb, "x"], seconds, started="2026-01-02T03:10:00Z"
        )
    return results


def test_time_is_divided_by_what_it_was_spent_on(tmp_path):
    found = times.read_times(spent(tmp_path))
    assert found.parts == {
        "start-up": 2 + 40 + (30 - 7) + 2 * (20 - 6),
        "sampling": 20.0,
        "steps": (50 - 20 - 5) + 7,
        "saving": 5 + (100 - 50 - 40),
        "answering": 12.0,
        "measuring": 5.0,
        "artefacts": 1.0,
    }
    assert found.seconds == 2 + 100 + 30 + 2 * 20 + 6
    # From two seconds before three o'clock to 100 s after it, and 20 s from ten past three on.
    assert (found.working, found.elapsed) == (122.0, 622.0)
    assert found.waiting == 500.0


def test_what_is_measured_on_rows_held_out_is_neither_a_step_nor_saving(tmp_path):
    record(
        tmp_path / "checkpoints" / "grpo" / "manifest.json.meta.json",
        ["train"],
        100.0,
        seconds={"start": 40.0, "steps": 40.0, "sampling": 15.0, "validation": 12.0},
    )
    assert times.read_times(tmp_path).parts == {
        "start-up": 40.0,
        "sampling": 15.0,
        "steps": 25.0,
        "validation": 12.0,
        "saving": 100.0 - 40 - 40 - 12,
    }


def test_the_verb_prints_the_times_in_full_and_in_brief(tmp_path, capsys):
    results = spent(tmp_path)
    print_times(results)
    text = capsys.readouterr().out
    stages = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert stages["evaluate"][1:5] == ["2", "40", "s", "22.7%"]
    assert stages["transfer"][1:4] == ["1", "3.0", "s"]
    assert "A chip, 2 cores" in text
    print_times(results, brief=True)
    brief = capsys.readouterr().out.splitlines()
    assert brief[0].startswith("7 jobs, 3 min of work in 2 min: start-up 52%")
    assert len(brief) == 2


def test_the_report_says_where_the_time_went(gathered, page):
    written = report.to_markdown(gathered)
    assert "## Where the time went" in written
    assert "| train | 1 | 30 s | 37.5% | 30 s | 3.0 GiB |" in written
    assert "A chip, 2 cores" in written
    assert "Where the time went" in page.text
