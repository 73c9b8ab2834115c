import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rich")

from subnetworks.core import watchdog
from subnetworks.core.errors import UserError
from subnetworks.core.progress import Progress
from subnetworks.training.runtime import process
from subnetworks.training.runtime.job import Command
from subnetworks.training.runtime.log import StepsLog

# A trainer with a daemon that leaves its group and session, as Ray's and vLLM's do.
TRAINER = """
import subprocess, sys, time
code = '''
import sys, time
from multiprocessing import resource_tracker, shared_memory
block = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(block._name, "shared_memory")  # as if the tracker had been killed too
print(block._name.lstrip("/"), flush=True)
time.sleep(600)
'''
daemon = subprocess.Popen(
    [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True
)
open(sys.argv[1], "w").write(f"{daemon.pid} {daemon.stdout.readline()}")
print("the trainer speaks", flush=True)
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def daemon_of(tmp_path):
    """The daemon's process and its shared memory."""
    pid, name = (tmp_path / "pid").read_text().split()
    return int(pid), Path("/dev/shm", name)


def gone(tmp_path):
    pid, segment = daemon_of(tmp_path)
    return not (alive(pid) or segment.exists() or (tmp_path / "scratch").exists())


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Silent(Progress):
    def __init__(self):
        super().__init__("run", 1000, "step")

    def update(self, done):
        pass


def train(tmp_path, seconds, status, stall=60.0, steps=None):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = [sys.executable, "-c", TRAINER, str(tmp_path / "pid"), str(seconds), str(status)]
    log = StepsLog([steps] if steps else [])
    process.run(Command(arguments, {}), scratch, tmp_path / "train.log", log, Silent(), stall)


def test_gpus_that_slurm_names_for_all_vendors_are_named_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1")
    named = "[n for n in sorted(os.environ) if n.endswith('VISIBLE_DEVICES')]"
    arguments = [sys.executable, "-c", f"import os; print(*{named})"]
    (tmp_path / "scratch").mkdir()
    log = tmp_path / "train.log"
    process.run(Command(arguments, {}), tmp_path / "scratch", log, StepsLog([]), Silent(), 60.0)
    assert log.read_text().split() == ["CUDA_VISIBLE_DEVICES"]


def test_after_the_end_nothing_is_left(tmp_path):
    train(tmp_path, 0.2, 0)
    assert gone(tmp_path)
    assert "the trainer speaks" in (tmp_path / "train.log").read_text()


def test_a_failure_shows_the_last_lines_and_leaves_nothing(tmp_path, capfd):
    with pytest.raises(UserError, match="status 3"):
        train(tmp_path, 0.2, 3)
    assert "the trainer speaks" in capfd.readouterr().err
    assert gone(tmp_path)


REFUSING = """
from subnetworks.core.errors import UserError
def main():
    raise UserError("rows.parquet: row 7 has 9 tokens, more than max_length (8)")
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_of_the_trainers_own_is_all_that_is_said(tmp_path, ranks, capfd):
    """The traceback, and the launcher's banner where there are several ranks, stay in the log."""
    if ranks > 1:
        pytest.importorskip("torch")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "refusing.py").write_text(REFUSING)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    what = ["-m", "subnetworks.training.runtime.start", "refusing"]
    command = Command(
        [sys.executable, *(launcher if ranks > 1 else []), *what],
        {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])},
    )
    log = tmp_path / "train.log"
    with pytest.raises(UserError) as caught:
        process.run(command, tmp_path / "scratch", log, StepsLog([]), Silent(), 60.0)
    assert str(caught.value) == "rows.parquet: row 7 has 9 tokens, more than max_length (8)"
    assert capfd.readouterr().err == ""
    assert "Traceback" in log.read_text()


def test_a_run_that_makes_no_step_is_stopped(tmp_path, capfd, monkeypatch):
    """By a clock that stands still until all has started."""
    now = itertools.count()
    started = tmp_path / "pid"
    clock = SimpleNamespace(
        sleep=time.sleep,
        monotonic=lambda: next(now) if started.exists() and started.read_text() else 0,
    )
    monkeypatch.setattr(process, "time", clock)
    with pytest.raises(UserError, match="no new step for 1 s after step 0"):
        train(tmp_path, 600, 0, stall=1.0)
    assert gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_run_kills_all_it_started(tmp_path, number):
    """Also when the whole process group gets the signal, and daemons have left that group."""
    here = Path(__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r}); from pathlib import Path; "
        f"from test_process import train; train(Path({str(tmp_path)!r}), 600, 0)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL
    )
    pid_file = tmp_path / "pid"
    assert wait_for(lambda: pid_file.exists() and pid_file.read_text())
    daemon, segment = daemon_of(tmp_path)
    assert alive(daemon)
    assert segment.exists()
    os.killpg(run.pid, number)
    run.wait()
    assert wait_for(lambda: gone(tmp_path))


def test_progress_off_a_terminal_is_plain_lines(tmp_path, capfd):
    row = {"step": 1, "loss": 0.5, "reward": 0.25, "accuracy": None, "seconds": 2.0}
    with Progress("grpo", 2, "step", process.describe(row)) as shown:
        shown.update(1)
        shown.update(2)
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "grpo: step 2/2" in lines[0]
    assert "reward 0.250, loss 0.500, 2.00 s/step" in lines[0]


def test_the_trainer_does_not_outlive_its_watchdog(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    trainer = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    run = subprocess.Popen(
        [sys.executable, watchdog.__file__, "0", str(scratch), sys.executable, "-c", trainer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(run.stdout.readline())
    run.kill()
    run.wait()
    assert wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("loss", ["NaN", "Infinity"])
def test_a_run_whose_loss_is_no_number_is_stopped(tmp_path, loss):
    steps = tmp_path / "steps.jsonl"
    steps.write_text(
        '{"step": 1, "data": {"loss": 0.5}}\n' + f'{{"step": 2, "data": {{"loss": {loss}}}}}\n'
    )
    with pytest.raises(UserError, match=r"loss of step 2 is (nan|inf): the run diverged"):
        train(tmp_path, 600, 0, steps=steps)
    assert not (tmp_path / "scratch").exists()


def test_sigterm_gives_the_trainer_time_to_save(tmp_path):
    """Only the run itself gets it; the trainer hears of it, saves, and ends by itself."""
    here = Path(__file__).parent
    trainer = (
        "import signal, sys, time; from pathlib import Path\n"
        "from subnetworks.training.runtime.stopping import Stop\n"
        "stop = Stop(); stop.agreed()  # loads torch\n"
        "Path(sys.argv[1], 'started').touch()\n"
        "while not stop.agreed(): time.sleep(0.05)\n"
        "time.sleep(1); Path(sys.argv[1], 'saved').touch()\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r}); from pathlib import Path\n"
        "from test_process import Command, Silent, StepsLog, process\n"
        f"folder = Path({str(tmp_path)!r}); (folder / 'scratch').mkdir()\n"
        f"command = Command([sys.executable, '-c', {trainer!r}, str(folder)], {{}})\n"
        "log = folder / 'train.log'\n"
        "process.run(command, folder / 'scratch', log, StepsLog([]), Silent(), 600.0)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert wait_for(lambda: (tmp_path / "started").exists())
    run.send_signal(signal.SIGTERM)
    words = run.communicate(timeout=600)[1]
    assert "stopped by SIGTERM after step 0; run again to resume" in words
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "scratch").exists()
