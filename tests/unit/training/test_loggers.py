"""A run's log sent on to loggers: what they get, and one that is not there."""

import json
import math
import sys
import types

import pytest

from subnetworks.core.errors import UserError
from subnetworks.training.runtime import loggers
from subnetworks.training.runtime.log import StepsLog
from subnetworks.training.settings import parse_accelerator


def sent(tmp_path, names):
    """Send a log of two earlier steps, of which the second is repeated, and of one more."""
    earlier, now = tmp_path / "steps-0.jsonl", tmp_path / "steps-1.jsonl"

    def lines(*steps):
        data = [{"loss": 1 / step if step != 3 else math.nan, "grad_norm": 2.0} for step in steps]
        return "".join(
            json.dumps({"step": step, "data": one}) + "\n"
            for step, one in zip(steps, data, strict=True)
        )

    earlier.write_text(lines(1, 2))
    log = StepsLog([earlier])
    log.read()
    with loggers.opened(names, tmp_path, "a run", {"steps": 3}) as send:
        log.follow(now, send)
        now.write_text(lines(2, 3))
        log.read()


class Recorder(types.ModuleType):
    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **named: self.calls.append((name, arguments, named))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_logger_gets_each_step_of_this_attempt_once_and_finite_numbers_alone(
    name, tmp_path, monkeypatch
):
    fake = Recorder(name)
    monkeypatch.setitem(sys.modules, name, fake)
    sent(tmp_path, [name])
    (begun, _, told), *logged, (ended, _, _) = fake.calls
    assert (begun, ended) == ("init", "finish")
    assert (told["project"], told["name"]) == ("subnetworks", "a run")
    assert told["config"] == {"steps": 3}
    numbers = [{**arguments[0], **named} for _, arguments, named in logged]
    assert numbers == [{"step": 2, "loss": 0.5, "grad_norm": 2.0}, {"step": 3, "grad_norm": 2.0}]


def test_tensorboard_gets_its_own_files(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent(tmp_path, ["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 0.5)]
    assert [event.step for event in events.Scalars("grad_norm")] == [2, 3]


def test_none_is_opened_by_default_and_one_that_is_absent_is_named(monkeypatch):
    assert parse_accelerator({}).logger == []
    loggers.check([])
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger 'trackio' needs the package trackio"):
        loggers.check(["trackio"])
    with pytest.raises(UserError, match="logger"):
        parse_accelerator({"logger": ["mlflow"]})
