"""Names of one parameter under many wrappers, and comparisons of a part, refused or said."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("scipy")

from calling import status
from checkpoints_made import Stored, bf16, llama, save, updated

from subnetworks.core.errors import UserError
from subnetworks.measuring import spectra, transfers
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.updates import measure, summarise, table

Tensors = dict[str, Stored]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def equal(x: Tensors, y: Tensors) -> int:
    return sum(int((x[name][1] == y[name][1]).sum()) for name in x)


def n(tensors: Tensors) -> int:
    return sum(bits.size for _, bits in tensors.values())


def renamed(folder: Path, tensors: Tensors, rename: Callable[[str], str]) -> Path:
    save(folder / "model.safetensors", {rename(name): t for name, t in tensors.items()})
    return folder


def within_layers(wrapper: str) -> Callable[[str], str]:
    return lambda name: name.replace("layers.0.", f"layers.0.{wrapper}.").replace(
        "layers.1.self_attn.", f"layers.1.self_attn.{wrapper}."
    )


@pytest.mark.parametrize(
    ("wrapper", "rename"),
    [
        ("_orig_mod.", lambda name: f"_orig_mod.{name}"),
        ("module.", lambda name: f"module.{name}"),
        ("base_model.model.", lambda name: f"base_model.model.{name}"),
        ("_orig_mod.", lambda name: f"module._orig_mod.{name}"),
        *(
            (f"{wrapper}.", within_layers(wrapper))
            for wrapper in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
        ),
    ],
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_wrappers_are_stripped_and_reported(
    wrapper: str,
    rename: Callable[[str], str],
    side: str,
    pair: tuple[Path, Path, Tensors, Tensors],
    tmp_path: Path,
) -> None:
    before, after, x, y = pair
    wrapped = renamed(tmp_path / "wrapped", x if side == "before" else y, rename)
    ends = (wrapped, after) if side == "before" else (before, wrapped)
    summary = summarise(measure(*ends, mask=tmp_path / "m.safetensors"))
    assert (summary["n"], summary["bit_equal"]) == (n(x), equal(x, y))
    assert (summary["compared_share"], summary["excluded"]) == (1, [])
    touched = sum(wrapper in rename(name) for name in x)
    assert summary["names"][side]["stripped"][wrapper] == touched
    assert {row["name"] for row in summary["tensors"]} == {*x}
    mask = Mask.open(tmp_path / "m.safetensors")
    assert {name: mask.shape(name) for name in mask.names} == {k: v[1].shape for k, v in x.items()}
    # The ranks and what a mask holds are those of the same update.
    plain = spectra.ranks(before, after)
    assert [s.ranks for s in spectra.ranks(*ends)] == [s.ranks for s in plain]
    held = transfers.within(*ends, [tmp_path / "m.safetensors"])
    assert transfers.summarise_mask(held[0])["changed"]["share"] == 1


def test_names_that_only_wrappers_tell_apart_are_refused(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, _, _, y = pair
    twice = y | {"module.model.norm.weight": y["model.norm.weight"]}
    save(tmp_path / "twice" / "model.safetensors", twice)
    with pytest.raises(UserError, match=r"'model\.norm\.weight'.*wrapped in"):
        measure(before, tmp_path / "twice", allow_partial=True)


@pytest.mark.parametrize(
    "inside",
    [
        lambda name: name.replace("model.", "model.language_model.", 1),
        lambda name: f"language_model.{name}",
        lambda name: name.removeprefix("model."),
    ],
)
def test_a_text_backbone_within_another_model(
    inside: Callable[[str], str], pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, _, x, y = pair
    whole = {inside(name): tensor for name, tensor in y.items()}
    whole["model.visual.merger.weight"] = bf16(np.ones((9, 9)))
    save(tmp_path / "whole" / "model.safetensors", whole)
    summary = summarise(measure(before, tmp_path / "whole"))
    assert (summary["n"], summary["bit_equal"]) == (n(x), equal(x, y))
    assert summary["compared_share"] == n(x) / (n(x) + 81)
    moved = [name for name in x if inside(name) != name]
    assert sum(row["tensors"] for row in summary["names"]["prefixes"]) == len(moved)
    again = summarise(measure(tmp_path / "whole", before))
    assert (again["n"], again["bit_equal"]) == (n(x), equal(x, y))


def test_two_backbones_to_choose_from_are_refused(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, _, x, y = pair
    both = {}
    for name, tensor in y.items():
        both[f"language_model.{name}"] = both[f"thinker.{name}"] = tensor
    save(tmp_path / "both" / "model.safetensors", both)
    with pytest.raises(UserError, match=r"may both be '.*--names"):
        measure(before, tmp_path / "both", allow_partial=True)
    names = {"": "thinker."}
    summary = summarise(measure(before, tmp_path / "both", names=names, allow_partial=True))
    assert (summary["n"], summary["bit_equal"]) == (n(x), equal(x, y))
    assert summary["compared_share"] == 0.5


def test_a_map_of_prefixes(pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path) -> None:
    before, _, x, y = pair
    other = renamed(
        tmp_path / "other", y, lambda name: name.replace("model.layers", "_orig_mod.decoder.blocks")
    )
    with pytest.raises(UserError, match="map the names"):
        measure(before, other)
    for new in ("decoder.blocks.", "_orig_mod.decoder.blocks."):
        summary = summarise(measure(before, other, names={"model.layers.": new}))
        assert (summary["n"], summary["bit_equal"]) == (n(x), equal(x, y))
    with pytest.raises(UserError, match="fits no tensors"):
        measure(before, other, names={"model.layers.": "encoder."})


def experts(rng: np.random.Generator) -> tuple[Tensors, Tensors, Tensors]:
    """Two layers of three experts each, before and after, and the latter stacked and fused."""
    before: Tensors = {EMBEDDING: bf16(rng.standard_normal((7, 6)))}
    for layer in range(2):
        for expert in range(3):
            stem = f"model.layers.{layer}.mlp.experts.{expert}"
            for name, shape in (("gate", (5, 6)), ("up", (5, 6)), ("down", (6, 5))):
                before[f"{stem}.{name}_proj.weight"] = bf16(rng.standard_normal(shape))
    after = updated(before, rng)
    stacked = {EMBEDDING: after[EMBEDDING]}
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp.experts"
        bits = {
            name: [after[f"{stem}.{k}.{name}_proj.weight"][1] for k in range(3)]
            for name in ("gate", "up", "down")
        }
        fused = [np.concatenate(both) for both in zip(bits["gate"], bits["up"], strict=True)]
        stacked[f"{stem}.gate_up_proj"] = "BF16", np.stack(fused)
        stacked[f"{stem}.down_proj"] = "BF16", np.stack(bits["down"])
    return before, after, stacked


STEM = "model.layers.*.mlp.experts"
STACKS = {
    f"{STEM}.*.gate_proj.weight + {STEM}.*.up_proj.weight": f"{STEM}.gate_up_proj",
    f"{STEM}.*.down_proj.weight": f"{STEM}.down_proj",
}


def test_experts_stored_one_by_one_and_stacked(tmp_path: Path) -> None:
    x, y, stacked = experts(np.random.default_rng(0))
    save(tmp_path / "a" / "model.safetensors", x)
    save(tmp_path / "b" / "model.safetensors", stacked)
    with pytest.raises(UserError, match=r"only 3\.74% of the entries.*experts\.\*\.down_proj"):
        measure(tmp_path / "a", tmp_path / "b")
    counted = {name: int((x[name][1] == y[name][1]).sum()) for name in x}
    backwards = {new: old for old, new in STACKS.items()}
    for ends, names in ((("a", "b"), STACKS), (("b", "a"), backwards)):
        sides = (tmp_path / end for end in ends)
        summary = summarise(measure(*sides, names=names, mask=tmp_path / "m.safetensors"))
        assert (summary["compared_share"], summary["excluded"]) == (1, [])
        assert {row["name"]: row["bit_equal"] for row in summary["tensors"]} == counted
    ranked = spectra.ranks(tmp_path / "a", tmp_path / "b", names=STACKS)
    assert (len(ranked), ranked.compared_share) == (len(x), 1)


def test_stacks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    x, _, stacked = experts(np.random.default_rng(0))
    save(tmp_path / "b" / "model.safetensors", stacked)
    few = {name: tensor for name, tensor in x.items() if ".experts.2." not in name}
    save(tmp_path / "few" / "model.safetensors", few)
    with pytest.raises(UserError, match="no stack of the other side's 2 experts"):
        measure(tmp_path / "few", tmp_path / "b", names=STACKS)
    save(tmp_path / "a" / "model.safetensors", x)
    for wrong in ({f"{STEM}.*.down_proj.weight": "x"}, {"*.*.*": "*.*"}):
        with pytest.raises(UserError, match="names: "):
            measure(tmp_path / "a", tmp_path / "b", names=wrong)


@pytest.mark.parametrize("gone", [lambda name: "norm" not in name, lambda name: True])
def test_empty_tensors_are_refused(
    gone: Callable[[str], bool], pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    """What ZeRO-3 leaves of weights that are saved without being gathered."""
    before, _, x, y = pair
    nothing = "BF16", np.zeros(0, np.uint16)
    empty = {name: nothing if gone(name) else tensor for name, tensor in y.items()}
    save(tmp_path / "empty" / "model.safetensors", empty)
    for ends in ((before, tmp_path / "empty"), (tmp_path / "empty",) * 2):
        with pytest.raises(UserError, match=r"empty: 'model\.embed_tokens\.weight' and .*gather"):
            measure(*ends)
        with pytest.raises(UserError, match="gather"):
            spectra.ranks(*ends)
    if gone(HEAD) and not gone("norm"):
        summary = summarise(measure(before, tmp_path / "empty", allow_partial=True))
        norms = {name: tensor for name, tensor in x.items() if "norm" in name}
        assert summary["n"] == n(norms)
        assert summary["compared_share"] == n(norms) / n(x)


def test_a_matrix_that_is_missing_stops_however_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = llama(rng, vocabulary=9000)
    y = updated(x, rng)
    del y["model.layers.1.self_attn.k_proj.weight"]
    save(tmp_path / "a" / "model.safetensors", x)
    save(tmp_path / "b" / "model.safetensors", y)
    for ends in (("a", "b"), ("b", "a")):
        with pytest.raises(
            UserError, match=r"99\.\d+%.*k_proj\.weight', only in .*/a; "
        ) as stopped:
            measure(*(tmp_path / end for end in ends))
        assert "\n" not in str(stopped.value)
    summary = summarise(measure(tmp_path / "a", tmp_path / "b", allow_partial=True))
    assert summary["compared_share"] == n(y) / n(x)
    found = spectra.ranks(tmp_path / "a", tmp_path / "b", allow_partial=True)
    assert found.compared_share == 15 / 16


def test_small_things_beside_a_model_do_not_stop(
    pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path
) -> None:
    before, _, x, y = pair
    extra = {"v_head.summary.weight": bf16(np.ones((1, 24)))}
    save(tmp_path / "extra" / "model.safetensors", y | extra)
    summary = summarise(measure(before, tmp_path / "extra"))
    assert (summary["n"], summary["compared_share"]) == (n(x), n(x) / (n(x) + 24))
    del y["model.norm.weight"]
    save(tmp_path / "fewer" / "model.safetensors", y)
    summary = summarise(measure(before, tmp_path / "fewer"))
    assert summary["compared_share"] == (n(x) - 24) / n(x)


def test_a_resized_vocabulary(pair: tuple[Path, Path, Tensors, Tensors], tmp_path: Path) -> None:
    before, _, x, y = pair
    padded = dict(y)
    for name in (HEAD, EMBEDDING):
        padded[name] = "BF16", np.concatenate([y[name][1], np.zeros((14, 24), np.uint16)])
    save(tmp_path / "padded" / "model.safetensors", padded)
    with pytest.raises(UserError, match=r"50x24 before, 64x24 after.*--common-rows"):
        measure(before, tmp_path / "padded")
    summary = summarise(measure(before, tmp_path / "padded", common_rows=True))
    assert (summary["n"], summary["bit_equal"]) == (n(x), equal(x, y))
    assert summary["compared_share"] == n(x) / n(padded)
    found = spectra.ranks(before, tmp_path / "padded", common_rows=True)
    assert (len(found), found.compared_share) == (16, 1)
    # Nothing but what was resized: the same hint.
    for name, tensors in (("one", x), ("two", padded)):
        save(tmp_path / name / "model.safetensors", {EMBEDDING: tensors[EMBEDDING]})
    with pytest.raises(UserError, match="--common-rows"):
        measure(tmp_path / "one", tmp_path / "two")


def test_the_share_is_reported(
    pair: tuple[Path, Path, Tensors, Tensors],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    before, _, x, y = pair
    del y[HEAD]
    part = tmp_path / "part"
    save(part / "model.safetensors", y)
    share = n(y) / n(x)
    assert all(
        row["compared_share"] == share for row in table(measure(before, part, allow_partial=True))
    )

    mask = tmp_path / "o.safetensors"
    for verb, whole in (("measure", share), ("rank", 15 / 16)):
        json_, table_ = (tmp_path / f"{verb}.{end}" for end in ("json", "parquet"))
        assert status(verb, before, part) == 2
        assert capsys.readouterr().err.count("\n") == 1
        outputs = ["--json", json_, "--table", table_]
        outputs += ["--mask", mask] if verb == "measure" else []
        assert status(verb, before, part, "--allow-partial", *outputs) == 0
        assert f"{whole:.2%} of the" in capsys.readouterr().out
        assert json.loads(json_.read_text())["compared_share"] == whole
        assert set(parquet.read_table(table_)["compared_share"].to_pylist()) == {whole}
    assert float(Mask.open(mask).metadata["compared_share"]) == share
    assert status("transfer", before, part, mask) == 2
    capsys.readouterr()
    json_ = tmp_path / "transfer.json"
    assert status("transfer", before, part, mask, "--allow-partial", "--json", json_) == 0
    assert f"{share:.2%} of the" in capsys.readouterr().out
    assert json.loads(json_.read_text())["compared_share"] == share
