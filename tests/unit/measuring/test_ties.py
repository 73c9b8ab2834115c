"""Which output heads are compared, with what: every combination of entries and configuration."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from checkpoints_made import Stored, llama, save, updated

from subnetworks.core.errors import UserError
from subnetworks.measuring.updates import measure, summarise

Tensors = dict[str, Stored]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
STATES, CONFIGS = ("absent", "equal", "differs"), ("tied", "untied", "silent")
TIED = {"tied": {"tie_word_embeddings": True}, "untied": {"tie_word_embeddings": False}}


def outcome(states: tuple[str, str], configs: tuple[str, str]) -> tuple[str, str] | str:
    """Which tensors are compared as the head: their names; `once`: none; `refused`."""
    match states:
        case ("absent", "absent") | ("absent", "equal") | ("equal", "absent"):
            return "once"
        case ("equal", "equal"):
            return (HEAD, HEAD) if "untied" in configs else "once"
        case ("absent", "differs"):
            return (EMBEDDING, HEAD) if configs[0] == "tied" else "refused"
        case ("differs", "absent"):
            return (HEAD, EMBEDDING) if configs[1] == "tied" else "refused"
    return HEAD, HEAD


def with_head(tensors: Tensors, state: str, rng: np.random.Generator) -> Tensors:
    body = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    if state == "absent":
        return body
    copy = {HEAD: (body[EMBEDDING][0], body[EMBEDDING][1].copy())}
    return body | (copy if state == "equal" else updated(copy, rng, share=0.9))


def same(first: Stored, second: Stored) -> int:
    return int((first[1] == second[1]).sum())


@pytest.mark.parametrize("states", list(product(STATES, STATES)), ids="-".join)
@pytest.mark.parametrize("configs", list(product(CONFIGS, CONFIGS)), ids="-".join)
def test_every_combination(
    states: tuple[str, str], configs: tuple[str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    start = llama(rng, layers=1, hidden=12, vocabulary=30)
    sides = []
    for side, state, config in zip(("before", "after"), states, configs, strict=True):
        sides.append(with_head(start if side == "before" else updated(start, rng), state, rng))
        save(tmp_path / side / "model.safetensors", sides[-1])
        if config in TIED:
            (tmp_path / side / "config.json").write_text(json.dumps(TIED[config]))
    before, after = sides
    compared = outcome(states, configs)
    if compared == "refused":
        with pytest.raises(UserError, match=rf"{HEAD}'?, only in .*--allow-partial"):
            measure(tmp_path / "before", tmp_path / "after")
        return
    summary = summarise(measure(tmp_path / "before", tmp_path / "after"))
    pairs = [(name, name) for name in start if name != HEAD]
    if compared != "once":
        pairs.append(compared)
    assert summary["n"] == sum(before[name][1].size for name, _ in pairs)
    assert summary["bit_equal"] == sum(same(before[x], after[y]) for x, y in pairs)
    assert summary["compared_share"] == 1
    listed = {entry["name"]: entry["reason"] for entry in summary["excluded"]}
    if "equal" in states and compared == "once":
        assert listed == {HEAD: f"tied to {EMBEDDING}, counted there"}
    else:
        assert listed == {}
    # Where configuration and entries disagree, that is said, and of which side.
    for side, state, config in zip(("before", "after"), states, configs, strict=True):
        contradicted = (config, state) in (
            ("tied", "differs"), ("untied", "equal"), ("untied", "absent"),
        )  # fmt: skip
        said = any(note.startswith(f"{side}: ") and "config" in note for note in summary["notes"])
        assert said == (contradicted and {*states} != {"absent"})


@pytest.mark.parametrize("section", ["text_config", "llm_config"])
def test_the_configuration_of_a_text_model_within_another(section: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = with_head(llama(rng), "equal", rng)
    end = with_head(updated(start, rng), "equal", rng)
    for side, tensors in (("before", start), ("after", end)):
        save(tmp_path / side / "model.safetensors", tensors)
        config = {"tie_word_embeddings": False, section: {"tie_word_embeddings": True}}
        (tmp_path / side / "config.json").write_text(json.dumps(config))
    summary = summarise(measure(tmp_path / "before", tmp_path / "after"))
    # The sections contradict each other, so the entries decide.
    assert summary["n"] == sum(bits.size for name, (_, bits) in start.items() if name != HEAD)
    for side in ("before", "after"):
        config = {section: {"tie_word_embeddings": False}}
        (tmp_path / side / "config.json").write_text(json.dumps(config))
    summary = summarise(measure(tmp_path / "before", tmp_path / "after"))
    assert summary["n"] == sum(bits.size for _, bits in start.values())


def test_a_head_that_a_model_of_a_known_kind_does_not_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = llama(rng)
    save(tmp_path / "before" / "model.safetensors", with_head(start, "absent", rng))
    save(tmp_path / "after" / "model.safetensors", with_head(updated(start, rng), "differs", rng))
    config = tmp_path / "before" / "config.json"
    config.write_text(json.dumps({"architectures": ["GemmaForCausalLM"]}))
    summary = summarise(measure(tmp_path / "before", tmp_path / "after"))
    assert summary["n"] == sum(bits.size for _, bits in start.values())
    config.write_text(json.dumps({"architectures": ["GemmaModel"]}))
    with pytest.raises(UserError, match="only in"):
        measure(tmp_path / "before", tmp_path / "after")


def test_an_embedding_stored_as_the_head(tmp_path: Path) -> None:
    """Some writers keep one of two names of the same tensor, and not always the embedding's."""
    rng = np.random.default_rng(0)
    start = with_head(llama(rng), "absent", rng)
    end = updated(start, rng)
    counted = sum(same(start[name], end[name]) for name in start)
    end[HEAD] = end.pop(EMBEDDING)
    for side, tensors in (("before", start), ("after", end)):
        save(tmp_path / side / "model.safetensors", tensors)
        (tmp_path / side / "config.json").write_text(json.dumps(TIED["tied"]))
    summary = summarise(measure(tmp_path / "before", tmp_path / "after"))
    assert (summary["n"], summary["bit_equal"]) == (
        sum(bits.size for _, bits in start.values()),
        counted,
    )
