"""Adapters as files: what is said of one that is given alone, or does not fit its base."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints_made import bf16, llama, save

from subnetworks.checkpoints import open as open_checkpoint
from subnetworks.core.errors import UserError

MODULE = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "owner/llama"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save(tmp_path / "base" / "model.safetensors", llama(np.random.default_rng(0)))
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    write(tmp_path / "adapter")
    return tmp_path / "adapter"


def write(folder: Path, r: int = 4, wide: int = 24, **config: object) -> None:
    rng = np.random.default_rng(1)
    tensors = {A: bf16(rng.normal(size=(r, wide))), B: bf16(rng.normal(size=(24, r)))}
    save(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))


def refused(source: object) -> str:
    with pytest.raises(UserError) as error:
        open_checkpoint(str(source))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_is_the_base_and_s_times_b_times_a(base: Path, adapter: Path) -> None:
    with open_checkpoint(f"adapter:{adapter}@{base}") as merged, open_checkpoint(base) as under:
        assert merged.names == under.names
        for name in merged.names:
            same = (merged[name].raw() == under[name].raw()).all()
            assert same == (name != f"{MODULE}.weight")
        found = merged[f"{MODULE}.weight"].raw().astype(np.uint32) << 16
        weight = under[f"{MODULE}.weight"].raw().astype(np.uint32) << 16
    rng = np.random.default_rng(1)
    a, b = (bf16(rng.normal(size=shape))[1].astype(np.uint32) << 16 for shape in ((4, 24), (24, 4)))
    exact = weight.view(np.float32).reshape(24, 24) + 8 / 4 * (
        b.view(np.float32) @ a.view(np.float32)
    )
    np.testing.assert_allclose(found.view(np.float32).reshape(24, 24), exact, rtol=2**-8)


def test_the_file_stands_for_its_folder(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    with (
        open_checkpoint(f"adapter:{file}@{base}") as one,
        open_checkpoint(f"adapter:{adapter}@{base}") as other,
    ):
        assert all((one[name].raw() == other[name].raw()).all() for name in one.names)


@pytest.mark.parametrize("part", ["", "adapter_model.safetensors", "adapter_config.json"])
def test_given_as_a_checkpoint_it_is_named_and_the_remedy_too(adapter: Path, part: str) -> None:
    said = refused(adapter / part if part else adapter)
    assert f"compare adapter:{adapter}@BASE" in said and "owner/llama" in said


def test_in_a_folder_within_it_is_named_too(tmp_path: Path) -> None:
    write(tmp_path / "run" / "policy")
    said = refused(tmp_path / "run")
    assert f"compare adapter:{tmp_path / 'run' / 'policy'}@BASE" in said
    assert f"name the folder that has it: {tmp_path / 'run' / 'policy'}" in refused(
        f"adapter:{tmp_path / 'run'}@{tmp_path}"
    )


def test_without_a_base_the_recorded_one_is_named(adapter: Path) -> None:
    assert "it was trained on owner/llama" in refused(f"adapter:{adapter}")


def of_another_base(folder: Path) -> None:
    write(folder, wide=32)


def of_another_rank(folder: Path) -> None:
    write(folder, rank_pattern={"q_proj": 8})


def half(folder: Path) -> None:
    save(folder / "adapter_model.safetensors", {A: bf16(np.ones((4, 24)))})


def a_magnitude(folder: Path) -> None:
    name = f"base_model.model.{MODULE}.lora_magnitude_vector"
    save(folder / "adapter_model.safetensors", {name: bf16(np.ones(24))})


def unknown_names(folder: Path) -> None:
    save(folder / "adapter_model.safetensors", {"lora.q.up": bf16(np.ones((4, 24)))})


def an_unknown_module(folder: Path) -> None:
    names = {name.replace("self_attn", "other"): bf16(np.ones((4, 4))) for name in (A, B)}
    save(folder / "adapter_model.safetensors", names)


def an_unknown_setting(folder: Path) -> None:
    write(folder, use_something_new=True)


def without_settings(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def without_a_rank(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


def renamed(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


BAD: dict[Callable[[Path], None], str] = {
    of_another_base: "makes a matrix of 24x32",
    of_another_rank: "of rank 4, by adapter_config.json 8",
    half: "only one of LoRA's A and B",
    a_magnitude: "DoRA",
    unknown_names: "not named as peft names",
    an_unknown_module: "which .* has not; name the base it was trained on",
    an_unknown_setting: "use_something_new",
    without_settings: "missing",
    without_a_rank: "no rank",
    renamed: "not a file that torch.save wrote",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_what_does_not_fit_or_is_not_understood_is_refused(
    bad: Callable[[Path], None], base: Path, adapter: Path
) -> None:
    bad(adapter)
    assert re.search(BAD[bad], refused(f"adapter:{adapter}@{base}"))


def test_a_quantised_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    tensors = llama(np.random.default_rng(0))
    tensors[f"{MODULE}.weight"] = ("F8_E4M3", np.ones((24, 24), np.uint8))
    save(tmp_path / "fp8" / "model.safetensors", tensors)
    assert "F8_E4M3" in refused(f"adapter:{adapter}@{tmp_path / 'fp8'}")
