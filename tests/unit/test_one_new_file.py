"""One new file adds an algorithm, a task or a format: it is listed, planned with, and used.

The same of a control is in `tests/workflow/test_new_control.py`.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import subnetworks

ALGORITHM = '''"""Identity preference optimisation."""

from typing import Any, Literal

from pydantic import Field

from subnetworks.core.validation import Above
from subnetworks.training.settings import PreferenceSettings


class IpoSettings(PreferenceSettings):
    """IPO: the chosen answer is to lead by a margin, and by no more."""

    algorithm: Literal["ipo"] = "ipo"

    tau: Above = Field(0.1, description="Half the inverse of the margin.")


SETTINGS = IpoSettings


def loss(log_probs: Any, data: Any, settings: IpoSettings) -> Any:
    from subnetworks.training.objectives import preferences

    chosen, rejected = preferences.pairs(log_probs, data, settings)
    return (chosen - rejected - 1 / (2 * settings.tau)) ** 2, chosen - rejected
'''
TASK = '''"""Whether a number is even."""

from typing import Any

from subnetworks.evaluation.task import Task


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"right": float(results[0].strip() == doc["parity"])}


TASKS = (
    Task(
        name="parity",
        definitions={
            "": {
                "output_type": "generate_until",
                "doc_to_text": "Is {{number}} even or odd?",
                "doc_to_target": "{{parity}}",
                "process_results": process_results,
                "generation_kwargs": {"until": ["."]},
                "metric_list": [{"metric": "right", "aggregation": "mean"}],
                "metadata": {"version": 3},
            }
        },
        hub="nobody/parity",
        columns=("number", "parity"),
        texts=("parity",),
        gold="parity",
        metric="right,none",
        max_tokens=4,
    ),
)
'''
FORMAT = '''"""Plain files: names and shapes in a line of JSON, then entries in float32."""

import json
from pathlib import Path

from subnetworks.checkpoints.formats.contents import Contents
from subnetworks.checkpoints.storage import File, Span, Tensor


def recognises(path: Path) -> bool:
    return path.suffix == ".plain"


def read(path: Path) -> Contents:
    with open(path, "rb") as lines:
        line = lines.readline()
    contents, position = Contents(files=[path], open=[File(path)]), len(line)
    for name, shape in json.loads(line).items():
        span = Span(contents.open[0], position)
        contents.tensors[name] = Tensor(name, "F32", tuple(shape), span, str(path))
        position += contents.tensors[name].nbytes
    return contents
'''
EXPERIMENT = """
checkpoints:
  base: { make: base }
  first: { path: first.plain }
  second: { path: second.plain }
datasets:
  talks: { make: demonstrations, rows: 64 }
  pairs: { make: preferences, policy: sft }
runs:
  sft: { algorithm: sft, init: base, data: talks, steps: 4, learning_rate: 1e-3, batch_size: 8 }
  ipo:
    algorithm: ipo
    init: sft
    data: pairs
    steps: 4
    learning_rate: 5e-7
    batch_size: 8
    tau: 0.5
updates:
  moved: { before: first, after: second }
benchmarks:
  numbers: { task: parity, data: rows.jsonl }
evaluation:
  ipo: { benchmarks: [numbers] }
"""
PLAN = """
from pathlib import Path
from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.experiment import checks, facts, load, models
experiment = load(Path("new.yaml"))
machine = parse(models.Machine, {"kind": "cpu", "devices": 1, "threads": 1}, "machine")
root = Path("no_environment")
checks.check(experiment, machine, checks.Modules.of(Path(), root, root))
print(experiment.runs["ipo"]["tau"], facts.facts_of(experiment, "runs", "ipo")["algorithm"])
"""
LISTED = """
import json
from subnetworks.experiment import schemas
tables = schemas.tables("experiment")
print(json.dumps([name in tables for name in ("`ipo`", "`tau`", "parity", "ipos")]))
"""
LOSS = """
import torch
from subnetworks.training.objectives import preferences
from subnetworks.training.settings import parse_settings
settings = parse_settings({"algorithm": "ipo", "tau": 0.25, "steps": 1, "batch_size": 1,
    "learning_rate": 1})
def jagged(*rows):
    return torch.nested.nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
data = {"loss_mask": jagged([0, 1, 1], [0, 1]), "examples": 1, "dp_size": 1}
log_probs = jagged([-1.0, -2.0, 0.0], [-7.0, 0.0])
print(preferences.loss({"log_probs": log_probs}, data, settings=settings)[0].item())
"""
WRITTEN = """
from pathlib import Path
from subnetworks.evaluation import definitions, settings
from subnetworks.evaluation.rows import Files
asked = settings.parse("numbers", {"task": "parity", "data": "rows.jsonl"})
Path("tasks").mkdir()
definitions.write(Path("tasks"), "numbers", asked, Files(Path("rows.jsonl"), None), 0)
"""
GRADED = """
from lm_eval.tasks import TaskManager
loaded = TaskManager(include_path="tasks", include_defaults=False).load(["numbers"])
task = loaded["tasks"]["numbers"]
first, second = task.eval_docs
print(task.doc_to_text(first), task.process_results(first, [" odd"]))
print(task.doc_to_text(second), task.process_results(second, [" odd"]), task.VERSION)
"""


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the code, three files more in it, and what an experiment names."""
    folder = tmp_path_factory.mktemp("more")
    package = folder / "subnetworks"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(subnetworks.__file__).parent, package, ignore=ignore)
    (package / "training" / "algorithms" / "ipo.py").write_text(ALGORITHM)
    (package / "evaluation" / "tasks" / "parity.py").write_text(TASK)
    (package / "checkpoints" / "formats" / "plain.py").write_text(FORMAT)
    (folder / "new.yaml").write_text(EXPERIMENT)
    rows = [{"number": 7, "parity": "odd"}, {"number": 8, "parity": "even"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, last in (("first", 4.0), ("second", 5.0)):
        head = json.dumps({"a.weight": [2, 1], "b.weight": [2]}) + "\n"
        entries = struct.pack("<4f", 1, 2, 3, last)
        (folder / f"{name}.plain").write_bytes(head.encode() + entries)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def printed(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_schema_lists_them(more: Path) -> None:
    pytest.importorskip("pydantic")
    assert json.loads(printed(more, "-c", LISTED)) == [True, True, True, False]


def test_an_experiment_may_say_them(more: Path) -> None:
    pytest.importorskip("pydantic")
    assert printed(more, "-c", PLAN) == "0.5 IPO\n"
    text = (more / "new.yaml").read_text()
    for old, new, words in (
        ("tau: 0.5", "tau: 0", "runs.ipo.tau: must be above 0"),
        ("tau: 0.5", "taw: 0.5", "did you mean 'tau'?"),
        ("task: parity", "task: paritY", "did you mean 'parity'?"),
    ):
        (more / "new.yaml").write_text(text.replace(old, new))
        done = run(more, "-c", PLAN)
        (more / "new.yaml").write_text(text)
        assert done.returncode != 0
        assert words in done.stderr


def test_the_algorithms_loss_is_what_is_trained_by(more: Path) -> None:
    pytest.importorskip("torch")
    # The answers' log-probabilities are -1 - 2 and -7; the chosen one leads by 4, and is to by 2.
    assert float(printed(more, "-c", LOSS)) == pytest.approx((4 - 2) ** 2)


def test_the_task_grades_answers(more: Path) -> None:
    pytest.importorskip("yaml")
    pytest.importorskip("pydantic")
    printed(more, "-c", WRITTEN)
    pytest.importorskip("lm_eval")
    assert printed(more, "-c", GRADED).splitlines()[-2:] == [
        "Is 7 even or odd? {'right': 1.0}",
        "Is 8 even or odd? {'right': 0.0} 3",
    ]


def test_checkpoints_of_the_format_are_compared(more: Path) -> None:
    pytest.importorskip("numba")
    pytest.importorskip("typer")
    verb = ("-m", "subnetworks", "measure", "first.plain", "second.plain", "--json", "found.json")
    printed(more, *verb)
    found = json.loads((more / "found.json").read_text())
    assert (found["n"], found["bit_equal"]) == (4, 3)


def test_a_checkpoint_of_the_format_is_converted_for_those_who_cannot_read_it(more: Path) -> None:
    pytest.importorskip("numba")
    fetch = (
        "from subnetworks.checkpoints import fetching, open\n"
        "fetching.fetch('first.plain', 'fetched', loadable=True)\n"
        "print(*(t.raw().view('<f4').tolist() for t in open('fetched').tensors.values()))"
    )
    assert printed(more, "-c", fetch) == "[1.0, 2.0] [3.0, 4.0]\n"
    assert [path.suffix for path in (more / "fetched").glob("*.safetensors")] == [".safetensors"]
