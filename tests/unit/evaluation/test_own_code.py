"""Evaluating a checkpoint that brings code of its own: only where the experiment trusts it."""

from pathlib import Path

import pytest

pytest.importorskip("numpy")

from subnetworks.checkpoints import write_manifest
from subnetworks.core.errors import UserError
from subnetworks.evaluation.checkpoint import inspect


def test_code_of_its_own_is_run_only_where_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "own.Own"}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="trust_remote_code: true in its entry"):
        inspect(tmp_path, chat=False)
    write_manifest(tmp_path, name="own", kind="path")
    with pytest.raises(UserError, match="auto_map"):
        inspect(tmp_path, chat=False)
    write_manifest(tmp_path, name="own", kind="path", trust_remote_code=True)
    assert inspect(tmp_path, chat=False).path == tmp_path


def test_what_vllm_does_not_load_is_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "delta.safetensors").touch()
    (tmp_path / "actor").mkdir()
    for name in ("delta.safetensors", "actor"):
        with pytest.raises(UserError, match=rf"subnetworks convert .*{name} --output"):
            inspect(tmp_path / name, chat=False)
