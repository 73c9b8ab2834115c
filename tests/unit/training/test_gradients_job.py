"""What is left behind by a job that measures gradients, with a stand-in for the trainer."""

import json
import sys
import tempfile

import pytest

pytest.importorskip("rich")
pytest.importorskip("pydantic")

from subnetworks.core.errors import UserError
from subnetworks.training.runtime import gradients, run
from subnetworks.training.runtime.job import Command

SETTINGS = {"algorithm": "dpo", "steps": 9, "learning_rate": 1e-6, "seed": 5, "validate_every": 9}
TRAINER = """
import json, sys
file, log, write = sys.argv[1:]
for step in (1, 2):
    with open(log, "a") as lines:
        lines.write(json.dumps({"step": step, "data": {"loss": 0.7, "seconds": 0.1}}) + "\\n")
if write == "True":
    open(file, "w").write("moments")
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measures with a trainer that does or does not write; gives the jobs it was asked for."""
    asked = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(run, "short_temporary_folder", lambda: str(tmp_path / "temporary"))
    for name in ("init", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(run, "check", lambda *_: {})
    monkeypatch.setattr(gradients.masking, "digest", lambda folder: "content")

    def measure(writes):
        def command(job):
            asked.append(job)
            words = (job.gradients["file"], job.steps_log, writes)
            return Command([sys.executable, "-c", TRAINER, *map(str, words)], {})

        monkeypatch.setitem(run.TRAINERS, "preference", command)
        gradients.measure(
            SETTINGS,
            init=tmp_path / "init",
            data=tmp_path / "data",
            output=tmp_path / "out.safetensors",
            batches=2,
        )

    return tmp_path, asked, measure


def test_the_file_takes_its_name_when_it_is_whole_and_nothing_else_stays(measured):
    folder, asked, measure = measured
    measure(True)
    assert (folder / "out.safetensors").read_text() == "moments"
    record = json.loads((folder / "out.safetensors.meta.json").read_text())
    assert (record["batches"], record["seed"], record["settings"]["steps"]) == (2, 5, 9)
    assert [*(folder / "temporary").iterdir()] == []
    (job,) = asked
    # It goes through two batches, and records the run's own settings.
    assert (job.settings.steps, job.gradients["batches"], job.mask) == (2, 2, None)
    assert not job.settings.validate_every
    recorded = job.gradients["metadata"]
    assert (recorded["before"], json.loads(recorded["settings"])["steps"]) == ("content", 9)
    assert job.engine["gradients"] == job.gradients
    assert job.engine_beside["gradients"] is None


def test_a_trainer_that_writes_nothing_is_an_error(measured):
    folder, _, measure = measured
    with pytest.raises(UserError, match="ended without writing it; run again"):
        measure(False)
    assert sorted(p.name for p in folder.iterdir()) == ["data", "init", "temporary"]
    assert [*(folder / "temporary").iterdir()] == []
