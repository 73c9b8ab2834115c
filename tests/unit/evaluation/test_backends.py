"""A checkpoint really served: killed, resumed, and scored alike by every backend."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import gone, needs_evaluation, processes_with, save_checkpoint, write_rows

needs_evaluation()

import pyarrow.parquet  # noqa: E402

import subnetworks  # noqa: E402
from subnetworks.core.errors import UserError  # noqa: E402
from subnetworks.evaluation import harness, keeping, server  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MACHINE = {
    "kind": "cpu",
    "devices": 1,
    "threads": 1,
    "dtype": "float32",
    "max_model_len": 2048,
    "sequences": 16,
}


@dataclass
class Evaluated:
    """What is known of an evaluation that was killed, and of the one that went on from there."""

    checkpoint: Path
    benchmarks: dict[str, Any]
    output: Path
    left: list[str]
    answered: int


def command(checkpoint: Path, benchmarks: dict[str, Any], output: Path) -> list[str]:
    options = {
        "--benchmarks": json.dumps(benchmarks),
        "--output": str(output),
        "--accelerator": json.dumps(MACHINE),
    }
    words = [word for pair in options.items() for word in pair]
    return ["evaluate", str(checkpoint), *words]


# The command line, stopped in the middle: as soon as it has kept one answer.
HALTING = """
import os, runpy, signal
from subnetworks.evaluation.answers import Answers
add = Answers.add
def halting(self, key, answer):
    add(self, key, answer)
    os.kill(os.getpid(), signal.SIGSTOP)
Answers.add = halting
runpy.run_module("subnetworks", run_name="__main__", alter_sys=True)
"""


def start(arguments: list[str], *, halting: bool = False) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(subnetworks.__file__).parents[1])}
    environment.pop("HF_HUB_OFFLINE", None)
    call = ["-c", HALTING] if halting else ["-m", "subnetworks"]
    return subprocess.Popen([sys.executable, *call, *arguments], env=environment)


def keys_in(path: Path) -> list[str]:
    """The requests whose answers a file keeps, whole lines only."""
    try:
        lines = path.read_bytes().split(b"\n")[1:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line)[0] for line in lines]


def check_server(word: str, log: Path) -> list[int]:
    """What a running server must be like; returns the processes of its group."""
    pids = processes_with(word)
    (serving,) = [
        pid
        for pid in pids
        if b"\0serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"watchdog.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    line = Path(f"/proc/{serving}/cmdline").read_text().split("\0")
    assert line[line.index("--host") + 1] == "127.0.0.1"
    url = f"http://127.0.0.1:{line[line.index('--port') + 1]}/v1/models"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=30)
    assert refused.value.code == 401
    variables = dict(
        entry.split("=", 1)
        for entry in Path(f"/proc/{serving}/environ").read_text().split("\0")
        if "=" in entry
    )
    key = variables["VLLM_API_KEY"]
    assert processes_with(key) == []
    assert key not in log.read_text()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    assert urllib.request.urlopen(request, timeout=30).status == 200
    # Its workers call themselves what they like, but stay in its group.
    group = os.getpgid(serving)
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and group_of(int(folder.name)) == group
    ]


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated")
    checkpoint = save_checkpoint(folder / f"tiny-{os.getpid()}", positions=2048)
    rows = [
        {"query": f"Q: {'x' * (i % 90)}{i}?\nA:", "choices": [" a", " bc", " d"], "gold": [i % 3]}
        for i in range(200)
    ]
    problems = [{"problem": f"{i}+{i}=", "answer": str(2 * i), "level": 1} for i in range(24)]
    benchmarks = {
        "choice": {
            "task": "agieval_lsat_ar",
            "data": str(write_rows(folder / "choice.jsonl", rows)),
        },
        "open": {
            "task": "math500",
            "data": str(write_rows(folder / "open.jsonl", problems)),
            "max_tokens": 16,
        },
    }
    output = folder / "served"
    arguments = command(checkpoint, benchmarks, output)
    kept = output / ".choice.answers.jsonl"
    client = start(arguments, halting=True)
    pids: list[int] = []
    try:
        changed = os.waitid(os.P_PID, client.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert changed is not None and changed.si_code == os.CLD_STOPPED
        pids = check_server(checkpoint.name, output / "server.log")
        assert len(pids) >= 1
        client.send_signal(signal.SIGKILL)
        client.wait()
        assert gone(pids, server.GRACE_S + 600)
        assert gone(processes_with(checkpoint.name), 600)  # the watchdog goes last
    finally:
        client.kill()
        client.wait()
        gone([*pids, *processes_with(checkpoint.name)], 600)
    left = sorted(path.name for path in output.iterdir())
    answered = len(keys_in(kept))
    again = start(arguments)
    assert again.wait(timeout=3000) == 0
    assert gone(processes_with(checkpoint.name), 600)
    return Evaluated(checkpoint, benchmarks, output, left, answered)


def score(output: Path, benchmark: str) -> dict[str, Any]:
    return json.loads((output / f"{benchmark}.json").read_text())


def samples(output: Path, benchmark: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(output / f"{benchmark}.samples.parquet").to_pylist()


def test_a_killed_evaluation_leaves_answers_and_no_score(evaluated: Evaluated) -> None:
    record = "scores.json.meta.json"  # whose the rest is: no scores are there yet
    assert evaluated.left == [".choice.answers.jsonl", ".lock", ".tasks", record, "server.log"]
    assert 0 < evaluated.answered < 600


def test_it_goes_on_from_the_answers_it_has(evaluated: Evaluated) -> None:
    found = score(evaluated.output, "choice")
    assert (found["requests"], found["requests_resumed"]) == (600, evaluated.answered)
    assert score(evaluated.output, "open")["requests_resumed"] == 0
    assert not list(evaluated.output.glob(".*"))
    index = json.loads((evaluated.output / "scores.json").read_text())
    assert set(index["scores"]) == {"choice", "open"}


def assert_alike(evaluated: Evaluated, output: Path) -> None:
    served, other = samples(evaluated.output, "choice"), samples(output, "choice")
    assert [row["prompt"] for row in served] == [row["prompt"] for row in other]
    for here, there in zip(served, other, strict=True):
        assert there["log_likelihoods"] == pytest.approx(here["log_likelihoods"], abs=2e-3)
        best = sorted(here["log_likelihoods"])
        if best[-1] - best[-2] > 4e-3:  # beyond a tie
            assert there["answer"] == here["answer"]
    # Where an answer ends within a character vLLM leaves its bytes out.
    texts = [
        [row["answer"].rstrip("\N{REPLACEMENT CHARACTER}") for row in samples(folder, "open")]
        for folder in (evaluated.output, output)
    ]
    equal = [a == b for a, b in zip(*texts, strict=True)]
    assert sum(equal) >= 0.9 * len(equal)
    # A random model writes on until it is cut off, unless it happens to end before.
    cuts = [
        [row["cut"] for row in samples(folder, "open")] for folder in (evaluated.output, output)
    ]
    assert [a for a, same in zip(cuts[0], equal, strict=True) if same] == [
        b for b, same in zip(cuts[1], equal, strict=True) if same
    ]
    assert sum(cut for (cut,) in cuts[1]) == score(output, "open")["cut"] > 0


def test_transformers_score_alike(evaluated: Evaluated, tmp_path: Path) -> None:
    harness.evaluate(evaluated.checkpoint, evaluated.benchmarks, tmp_path, MACHINE, backend="hf")
    assert score(tmp_path, "choice")["backend"] == "hf"
    assert_alike(evaluated, tmp_path)


def test_vllm_in_the_process_scores_alike(evaluated: Evaluated, tmp_path: Path) -> None:
    arguments = command(evaluated.checkpoint, evaluated.benchmarks, tmp_path)
    client = start([*arguments, "--backend", "vllm"])
    assert client.wait(timeout=3000) == 0
    assert not (tmp_path / "server.log").exists()
    assert_alike(evaluated, tmp_path)


def test_sampling_by_transformers_repeats_with_its_seed(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    entry = {**evaluated.benchmarks["open"], "temperature": 1.0, "samples": 2}
    found = []
    for number, seed in enumerate((1, 1, 3)):
        output = tmp_path / str(number)
        harness.evaluate(
            evaluated.checkpoint, {"open": entry}, output, MACHINE, backend="hf", seed=seed
        )
        found.append([row["answers"] for row in samples(output, "open")])
    assert found[0] == found[1] != found[2]
    assert all(first != second for first, second in found[0])


def test_an_unknown_backend(evaluated: Evaluated, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"backend: 'vlm' is not allowed .*; allowed: served, vllm, hf"
    ):
        harness.evaluate(
            evaluated.checkpoint, evaluated.benchmarks, tmp_path, MACHINE, backend="vlm"
        )


def test_a_first_token_is_set_once(tmp_path: Path) -> None:
    """As transformers does it for a Llama; lm-eval's model for servers never sets it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    llama = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert keeping.encode(llama, ["a b", "<s> b", "a"]) == [[0, 2, 3], [0, 3], [0, 2]]
