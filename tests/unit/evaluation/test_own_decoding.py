"""A checkpoint's own way of decoding (penalties, beams, lengths) is none of a benchmark's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_evaluation, write_rows

needs_evaluation()

import pyarrow.parquet  # noqa: E402

from subnetworks.evaluation import harness, server  # noqa: E402
from subnetworks.evaluation.machine import Machine  # noqa: E402

OWN = {
    "repetition_penalty": 1.7,
    "presence_penalty": 1.5,
    "frequency_penalty": 1.25,
    "temperature": 0.6,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.2,
}
# What transformers knows, too, and vLLM ignores.
FURTHER = {"do_sample": True, "num_beams": 2, "no_repeat_ngram_size": 1, "max_new_tokens": 2}


@pytest.fixture
def asking(checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint, which asks to be decoded in its own way."""
    folder = tmp_path / "asking"
    shutil.copytree(checkpoint, folder)
    path = folder / "generation_config.json"
    ends = json.loads(path.read_text())
    del ends["_from_model_config"]  # with it transformers leaves out what it does not know
    path.write_text(json.dumps({**ends, **OWN}))
    return folder


def sampling(checkpoint: Path, override: dict[str, Any]) -> Any:
    """How vLLM's server samples for a request that names its temperature and length alone."""
    from vllm.config import ModelConfig
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    model = ModelConfig(model=str(checkpoint), override_generation_config=override)
    request = CompletionRequest(model="m", prompt=[1], temperature=1.0, max_tokens=4)
    return request.to_sampling_params(4, model.get_diff_sampling_param())


def test_a_server_samples_as_it_is_asked(
    checkpoint: Path, asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = server.Server(asking, Machine(kind="cpu"), 128, tmp_path / "log")._command()
    override = json.loads(words[words.index("--override-generation-config") + 1])
    asked = sampling(asking, {})
    assert {name: getattr(asked, name) for name in OWN} == {**OWN, "temperature": 1.0}
    assert sampling(asking, override) == sampling(checkpoint, {})


def test_transformers_decode_as_they_are_asked(
    checkpoint: Path, asking: Path, tmp_path: Path
) -> None:
    path = asking / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **FURTHER}))
    rows = [{"problem": f"{i}+{i}=", "answer": str(2 * i), "level": 1} for i in range(6)]
    entry = {"task": "math500", "data": str(write_rows(tmp_path / "m.jsonl", rows))}
    entry = {**entry, "max_tokens": 12}
    machine = {"kind": "cpu", "threads": 1, "dtype": "float32", "max_model_len": 1024}
    answers = []
    for folder in (checkpoint, asking):
        output = tmp_path / f"scored-{folder.name}"
        harness.evaluate(folder, {"open": entry}, output, machine, backend="hf")
        answers.append(
            pyarrow.parquet.read_table(output / "open.samples.parquet").column("answer").to_pylist()
        )
    assert answers[0] == answers[1]
    assert all(len(answer) > 2 for answer in answers[0])
