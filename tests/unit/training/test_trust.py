"""A checkpoint's own Python code runs only where the experiment trusts it."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("verl")

import contextlib

from subnetworks import checkpoints
from subnetworks.checkpoints.manifest import trusts
from subnetworks.training.data.conversations import load_tokenizer

CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizer

Path({mark!r}).touch()

class Own(PreTrainedTokenizer):
    pass
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_a_tokenizers_own_code(tmp_path: Path, monkeypatch, trusted: bool) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    mark = tmp_path / "ran"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (theirs / "config.json").write_text('{"model_type": "llama"}')
    (theirs / "own.py").write_text(CODE.format(mark=str(mark)))
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (theirs / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoints.fetch(str(theirs), tmp_path / "out", trusted=trusted)
    assert (tmp_path / "out" / "own.py").exists() is trusted
    assert trusts(tmp_path / "out") is trusted
    if not trusted:  # not even if it lay there
        shutil.copy(theirs / "own.py", tmp_path / "out" / "own.py")
    with contextlib.suppress(Exception):
        load_tokenizer(tmp_path / "out")
    assert mark.exists() is trusted
