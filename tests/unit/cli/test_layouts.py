"""No verb changes or removes what is not its own earlier result, wherever it is told to write.

`SUBNETWORKS_LAYOUTS=N` tries N layouts a verb.
"""

import importlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("pyarrow")

import pyarrow
import pyarrow.parquet
from layouts import Layout, Own
from typer.testing import CliRunner

from subnetworks.checkpoints import manifest
from subnetworks.cli import load
from subnetworks.core import files, outputs, provenance
from subnetworks.core.errors import UserError

LAYOUTS = int(os.environ.get("SUBNETWORKS_LAYOUTS", "40"))
RUNNER, APP = CliRunner(), load()


def safetensors(path, tensors):
    """A safetensors file of bf16 tensors, without the library under test."""
    header, position = {}, 0
    for name, bits in tensors.items():
        offsets = [position, position + bits.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": offsets}
        position += bits.nbytes
    text = json.dumps(header).encode()
    body = b"".join(bits.tobytes() for bits in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def call(*arguments):
    done = RUNNER.invoke(APP, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, UserError), (
        arguments,
        repr(done.exception),
    )
    return done


def works(*arguments):
    done = call(*arguments)
    assert done.exception is None, (arguments, done.exception)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Inputs, a user's notes, and what earlier calls have written, with whose each is."""
    root = tmp_path_factory.mktemp("template")
    before = os.getcwd()
    os.chdir(root)
    rng = np.random.default_rng(0)
    start = {
        "model.embed_tokens.weight": rng.integers(15000, 16000, (8, 4)).astype("<u2"),
        "model.layers.0.self_attn.q_proj.weight": rng.integers(15000, 16000, (4, 4)).astype("<u2"),
    }
    end = {
        name: bits + (rng.random(bits.shape) < 0.4).astype("<u2") for name, bits in start.items()
    }
    for name, tensors in (("base", start), ("tuned", end)):
        safetensors(root / name / "model.safetensors", tensors)
        (root / name / "config.json").write_text(json.dumps({"name": name}))
        (root / name / "tokenizer.json").write_text("{}")
    (root / "notes").mkdir()
    (root / "notes" / "notes.txt").write_text("mine")
    (root / "names.yaml").write_text("{}")
    (root / "x.yaml").write_text("{}")
    (root / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), root / "data" / "train.parquet")
    works("measure", "base", "tuned", "--mask", "one.safetensors")
    works("mask", "complement", "one.safetensors", "--output", "two.safetensors")
    works("delta", "base", "tuned", "--output", "d.safetensors")
    (root / "steps").mkdir()
    works("delta", "base", "tuned", "--output", "steps/step_000001.safetensors")
    (root / "steps/step_000001.safetensors.meta.json").unlink()
    rows = [{"step": 1, "file": "step_000001.safetensors"}]
    (root / "steps" / "manifest.json").write_text(json.dumps({"steps": rows}))
    (root / "results" / "updates").mkdir(parents=True)
    (root / "results" / "updates" / "x.json").write_text("{}")
    (root / "published").mkdir()
    (root / "published" / "paper.csv").write_text("a")
    own = Own(
        {Path("one.safetensors"): "measure --mask", Path("two.safetensors"): "mask --output"}
        | {Path("d.safetensors"): "delta --output"}
    )
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, tmp_path_factory.mktemp("cached"))
        for verb in VERBS:
            options, written, _ = VERBS[verb](str)
            works(*options)
            for place, purpose in written.items():
                assert Path(place).exists(), place
                kind = own.folders if Path(place).is_dir() else own.files
                kind[Path(place)] = purpose
    own.working |= dict.fromkeys(map(Path("own/run").joinpath, RUN), "train log")
    own.working |= dict.fromkeys(map(Path("own/scores").joinpath, SCORES), "evaluate index")
    os.chdir(before)
    return root, own


def _measure(place):
    j, t, m = place("own/m.json"), place("own/m.parquet"), place("own/m.safetensors")
    reads = [place("base"), place("tuned")]
    line = ["measure", *reads, "--json", j, "--table", t, "--mask", m]
    return line, {j: "measure --json", t: "measure --table", m: "measure --mask"}, reads


def _rank(place):
    j, t = place("own/r.json"), place("own/r.parquet")
    reads = [place("base"), place("tuned")]
    line = ["rank", *reads, "--json", j, "--table", t]
    return line, {j: "rank --json", t: "rank --table"}, reads


def _mask(place):
    out, reads = place("own/k.safetensors"), [place("one.safetensors"), place("two.safetensors")]
    return ["mask", "union", *reads, "--output", out], {out: "mask --output"}, reads


def _magnitude(place):
    out, reads = place("own/s.safetensors"), [place("base"), place("one.safetensors")]
    line = ["mask", "magnitude", reads[0], "--like", reads[1], "--output", out]
    return line, {out: "mask --output"}, reads


def _overlap(place):
    j, t = place("own/o.json"), place("own/o.parquet")
    reads = [place("one.safetensors"), place("two.safetensors"), place("base")]
    line = ["overlap", *reads[:2], "--magnitude", reads[2], "--json", j, "--table", t]
    return line, {j: "overlap --json", t: "overlap --table"}, reads


def _transfer(place):
    j, reads = place("own/t.json"), [place("base"), place("tuned"), place("one.safetensors")]
    return ["transfer", *reads, "--json", j], {j: "transfer --json"}, reads


def _ranking(place):
    j, reads = place("own/q.json"), [place("one.safetensors"), place("base")]
    line = ["ranking", reads[0], "magnitude", reads[1], "--json", j]
    return line, {j: "ranking --json"}, reads


def _trajectory(place):
    j, t = place("own/y.json"), place("own/y.parquet")
    reads = [place("steps")]
    line = ["trajectory", *reads, "--json", j, "--table", t]
    return line, {j: "trajectory --json", t: "trajectory --table"}, reads


def _sync(place):
    j, t = place("own/sync.json"), place("own/sync.parquet")
    reads = [place("steps")]
    line = ["sync", *reads, "--json", j, "--table", t]
    return line, {j: "sync --json", t: "sync --table"}, reads


def _delta(place):
    out, reads = place("own/d.safetensors"), [place("base"), place("tuned")]
    return ["delta", *reads, "--output", out], {out: "delta --output"}, reads


def _apply(place):
    out, reads = place("own/applied"), [place("base"), place("d.safetensors")]
    return ["apply", *reads, "--output", out], {out: "apply"}, reads


def _fetch(place):
    out, reads = place("own/linked"), [place("base")]
    return ["fetch", *reads, "--output", out], {out: "fetch"}, reads


def _convert(place):
    reads, out = [place("base")], place("own/converted")
    return ["convert", *reads, "--output", out], {out: "convert"}, reads


def _fetch_data(place):
    out = place("own/fetched")
    line = ["fetch-data", "hub:a/b@main", "--output", out, "--settings"]
    return [*line, '{"gives": "conversations"}'], {out: "fetch-data"}, []


def _mix(place):
    folders, out = [place("first"), place("second")], place("own/mixed")
    parts = [word for n, folder in enumerate(folders) for word in ("--part", f"p{n}={folder}")]
    line = ["mix", *parts, "--output", out, "--settings", '{"weights": {"p0": 1, "p1": 1}}']
    return line, {out: "mix"}, folders


def _make(place):
    out = place("own/made")
    return ["make", "problems", "--output", out, "--settings", '{"rows": 4}'], {out: "make"}, []


def _sample(place):
    out, reads = place("own/sampled"), [place("data"), place("base")]
    line = ["sample", "--problems", reads[0], "--policy", reads[1], "--output", out]
    return line, {out: "sample"}, reads


def _table(place):
    out, reads = place("own/tables"), [place("results/updates"), place("published")]
    line = [
        "table",
        "t",
        "--spec",
        "{}",
        "--results",
        os.path.dirname(reads[0].rstrip("/.")) or ".",
    ]
    written = {os.path.join(out, f"t.{end}"): f"table .{end}" for end in ("csv", "md", "tex")}
    return [*line, "--published", reads[1], "--output-folder", out], written, reads


def _figure(place):
    line, written, reads = _table(place)
    out = os.path.dirname(next(iter(written)))
    ends = ("csv", "pdf", "svg", "png")
    written = {os.path.join(out, f"f.{end}"): f"figure .{end}" for end in ends}
    return ["figure", "f", *line[2:]], written, reads


def _report(place):
    h, m = place("own/p.html"), place("own/p.md")
    line = ["report", "--results", place("results"), "--output", h, "--output", m]
    return line, {h: "report --output", m: "report --output"}, []


def _lock(place):
    experiment = place("x.yaml")
    # A lock says itself what it is; there is none to replace in the template but its own.
    out = str(Path(experiment).with_suffix(".lock"))
    return ["lock", experiment], {out: "lock"}, [experiment]


def _train(place):
    out, run = place("own/trained"), place("own/run")
    reads = [place("base"), place("data"), place("one.safetensors")]
    line = ["train", "--settings", SETTINGS, "--init", reads[0], "--data", reads[1]]
    line += ["--mask", reads[2], "--output", out, "--run-folder", run]
    names = {"log.csv": "train log", "trajectory/manifest.json": "train trajectory"}
    return line, {out: "train"} | {os.path.join(run, n): p for n, p in names.items()}, reads


def _evaluate(place):
    out, reads = place("own/scores"), [place("tuned"), place("notes")]
    line = ["evaluate", reads[0], "--benchmarks", '{"b": {}}', "--output", out]
    names = {"scores.json": "index", "b.json": "score", "b.samples.parquet": "samples"}
    return line, {os.path.join(out, n): f"evaluate {p}" for n, p in names.items()}, reads


RUN = ("train.log", "state", "trajectory/step_000001.safetensors")
SCORES = ("server.log", ".tasks", ".b.answers.jsonl")
SETTINGS = '{"algorithm": "dpo", "steps": 1, "batch_size": 1, "learning_rate": 1e-6}'
VERBS = {
    "measure": _measure,
    "rank": _rank,
    "mask": _mask,
    "magnitude": _magnitude,
    "overlap": _overlap,
    "transfer": _transfer,
    "ranking": _ranking,
    "trajectory": _trajectory,
    "sync": _sync,
    "delta": _delta,
    "apply": _apply,
    "convert": _convert,
    "fetch": _fetch,
    "fetch-data": _fetch_data,
    "make": _make,
    "mix": _mix,
    "sample": _sample,
    "table": _table,
    "figure": _figure,
    "report": _report,
    "lock": _lock,
    "train": _train,
    "evaluate": _evaluate,
}


def stand_in(patch, cached):
    """Let the heavy part of each verb write what it would, in no time."""
    # What draws and tabulates is stood in for, too, and its packages are of another environment.
    for name in ("polars", "matplotlib", "matplotlib.axes", "matplotlib.figure"):
        try:
            importlib.import_module(name)
        except ImportError:
            patch.setitem(sys.modules, name, MagicMock())

    from subnetworks import artefacts, experiment, report
    from subnetworks.checkpoints.hub import client
    from subnetworks.evaluation import harness
    from subnetworks.training.data import hub_data, mixture, rejection
    from subnetworks.training.runtime import run

    patch.setattr(os, "fsync", lambda descriptor: None)
    patch.setattr(provenance, "_Git", lambda: SimpleNamespace(answer=dict))
    patch.setattr(provenance, "machine", dict)
    patch.setattr(provenance, "versions", dict)

    entry = SimpleNamespace(files=["x.parquet"], commit="c", digest="d")
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]

    def download(*_, **__):
        cached.mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist([{"messages": messages}])
        pyarrow.parquet.write_table(table, cached / "x.parquet")
        return cached, entry

    patch.setattr(hub_data, "download", download)

    patch.setattr(mixture, "verify", lambda folder: None)
    patch.setattr(mixture, "sha256", lambda file: "x")
    patch.setattr(mixture, "_read", lambda *_: ("conversations", [{"messages": messages}]))

    problem = {"prompt": [], "reward_model": {"ground_truth": "1"}}
    patch.setattr(rejection, "verify", lambda folder: None)
    patch.setattr(rejection.finish, "shapes", lambda folder: {})
    patch.setattr(rejection, "check_problems", lambda folder: [problem])
    patch.setattr(rejection, "load_tokenizer", lambda *_: None)
    patch.setattr(rejection, "check_ends", lambda *_: None)
    patch.setattr(rejection, "read_problems", lambda *_: [([1], None)])
    patch.setattr(rejection.state, "digest", lambda folder: "x")
    patch.setattr(rejection, "generate", lambda *_: (["\\boxed{1}"], [rejection.rewards.Ending()]))
    patch.setattr(rejection.rewards, "checked", lambda *_: 1)

    def train(parsed, machine, init, data, mask, output, folder, shapes, lock, results, keep):
        state, deltas = folder / "state", folder / "trajectory"
        run.state.prepare(state, {"settings": 1, "init": 2, "data": 3})
        (folder / "train.log").unlink(missing_ok=True)
        run.trajectory.resume(deltas, 0)
        with provenance.recorded(*results):
            (folder / "train.log").write_text("trained")
            deltas.mkdir(exist_ok=True)
            (deltas / "step_000001.safetensors").write_bytes(b"delta")
            files.write_json(deltas / "manifest.json", {"steps": []})
            with outputs.folder(output, "train") as made:
                (made / "model.safetensors").write_bytes(b"weights")
                manifest.write_manifest(made, name="x", kind="run")
            files.write_text(folder / "log.csv", "step")
        run.state.clear(state)

    patch.setattr(run, "check", lambda *_: {})
    patch.setattr(run, "_train", train)

    def benchmark(name, settings, *_):
        return harness.Benchmark(name, settings, None, "f", {}, {})

    def score(pending, checkpoint, output, machine, seed):
        shutil.rmtree(harness._tasks(output), ignore_errors=True)
        harness._tasks(output).mkdir()
        (output / "server.log").write_text("served")
        answers = harness.Answers(output / ".b.answers.jsonl", "f")
        result, samples = output / "b.json", output / "b.samples.parquet"
        kinds = zip((result, samples), ("evaluate score", "evaluate samples"), strict=True)
        with provenance.recorded(*(outputs.Output.of(*one) for one in kinds)):
            with files.atomic_path(samples) as temporary:
                temporary.write_text("x")
            keys = ("metric", "score", "stderr", "interval_95", "n", "cut")
            files.write_json(result, {**dict.fromkeys(keys, 0.0), "interval_95": [0.0, 0.0]})
        answers.discard()
        return None, {}

    settings = SimpleNamespace(chat=False, data=None)
    inspected = SimpleNamespace(digest="x")
    patch.setattr(harness.benchmark_settings, "parse", lambda *_: settings)
    patch.setattr(harness.checkpoints, "inspect", lambda *_: inspected)
    patch.setattr(harness, "_benchmark", benchmark)
    patch.setattr(harness, "_score", score)

    def load(name, kind):
        def write(context, folder):
            for suffix in kind.suffixes:
                files.write_text(folder / f"{name}{suffix}", "shown")
            return []

        return SimpleNamespace(suffixes=kind.suffixes, write=write)

    patch.setattr(artefacts, "load", load)

    patch.setattr(report, "gather", lambda *_: None)
    patch.setattr(report, "to_markdown", lambda gathered: "report")
    patch.setattr(report, "to_html", lambda gathered: "report")

    named = SimpleNamespace(hub_sources=dict)
    patch.setattr(experiment, "load", lambda *_: named)
    patch.setattr(client, "to_download", lambda *_: 0)
    patch.setattr(client, "free", lambda *_: 0)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_of_the_users_is_changed(verb, template, tmp_path, monkeypatch):
    outcomes = Counter()
    stand_in(monkeypatch, tmp_path / "cached")
    for seed in range(LAYOUTS):
        layout = Layout(*template, tmp_path / "world", seed)
        monkeypatch.chdir(layout.root)
        options, written, reads = VERBS[verb](layout.place)
        layout.expect(written, reads)
        done = call(*options)
        assert not layout.lost(), (verb, seed, options, done.exception)
        if done.exception is None:
            outcomes["written"] += 1
            assert all(Path(place).exists() for place in written), (verb, seed, options)
        else:
            outcomes[str(done.exception).partition(": ")[2].split(",")[0][:40]] += 1
            assert "\n" not in str(done.exception)
    print(f"{verb}: {LAYOUTS} layouts: {dict(outcomes.most_common())}")
    if LAYOUTS >= 20:
        assert LAYOUTS * 0.1 < outcomes["written"] < LAYOUTS
