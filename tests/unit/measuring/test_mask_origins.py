"""Masks of different bases, rules and models: refused, or said."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run
from checkpoints_made import llama, save, updated

from subnetworks.core.errors import UserError
from subnetworks.measuring import masks, overlaps, transfers
from subnetworks.measuring.mask_making import Request
from subnetworks.measuring.mask_sources import complement, magnitude, principal, random
from subnetworks.measuring.masks import Mask
from subnetworks.measuring.selections import Share
from subnetworks.measuring.updates import Selection, measure


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two bases, two updates of the first and one of the second, and the masks of all three."""
    rng = np.random.default_rng(0)
    bases = {"base": llama(rng), "other": llama(rng)}
    for name, tensors in bases.items():
        save(tmp_path / name / "model.safetensors", tensors)
    for name, base in (("one", "base"), ("two", "base"), ("three", "other")):
        save(tmp_path / f"{name}.safetensors", updated(bases[base], rng))
        measure(
            tmp_path / base,
            tmp_path / f"{name}.safetensors",
            mask=tmp_path / "masks" / f"{name}.safetensors",
        )
    return tmp_path


def mask(folder: Path, name: str) -> Path:
    return folder / "masks" / f"{name}.safetensors"


def test_masks_of_one_base_are_compared_without_remark(made: Path) -> None:
    summary = overlaps.summarise(
        overlaps.compare([mask(made, "one"), mask(made, "two")], magnitude=made / "base")
    )
    assert (summary["notes"], summary["compared_share"]) == ([], 1)
    first, second = summary["origins"]
    assert first["base"] == second["base"] == Mask.open(mask(made, "one")).metadata["before"]
    assert (first["rule"], first["compared_as"], first["operation"]) == ("equal", "BF16", None)


def test_masks_of_two_bases(made: Path) -> None:
    both = [mask(made, "one"), mask(made, "three")]
    with pytest.raises(UserError, match=r"three\.safetensors: .*base.*--different-bases"):
        overlaps.compare(both)
    summary = overlaps.summarise(overlaps.compare(both, different_bases=True))
    arrays = [{n: m.array(n) for n in m.names} for m in map(Mask.open, both)]
    shared = sum(int((arrays[0][n] & arrays[1][n]).sum()) for n in arrays[0])
    assert summary["intersection"] == shared
    (note,) = summary["notes"]
    assert "three.safetensors" in note
    # Also where a third one agrees with the first, and of masks made of others.
    with pytest.raises(UserError, match="different-bases"):
        overlaps.compare([mask(made, "one"), mask(made, "two"), mask(made, "three")])
    random.randomise(Mask.open(both[1]), mask(made, "random"), 0)
    with pytest.raises(UserError, match="different-bases"):
        overlaps.compare([mask(made, "one"), mask(made, "random")])


def test_weights_of_another_base(made: Path) -> None:
    both = [mask(made, "one"), mask(made, "two")]
    with pytest.raises(UserError, match=r"but .*other has .*--different-bases"):
        overlaps.compare(both, magnitude=made / "other")
    summary = overlaps.summarise(
        overlaps.compare(both, magnitude=made / "other", different_bases=True)
    )
    assert len(summary["notes"]) == 2
    like = Share(like=Mask.open(both[0]))
    for choose in (
        lambda **allow: magnitude.magnitude(made / "other", mask(made, "m"), like, **allow),
        lambda **allow: principal.principal(made / "other", mask(made, "p"), like, 2, **allow),
    ):
        with pytest.raises(UserError, match="--different-bases"):
            choose()
        assert choose(different_bases=True) > 0
    with pytest.raises(UserError, match="--different-bases"):
        transfers.within(made / "other", made / "three.safetensors", [both[0]])
    found = transfers.within(
        made / "other", made / "three.safetensors", [both[0]], different_bases=True
    )
    assert any("one.safetensors" in note for note in found.notes)


@pytest.mark.parametrize(
    ("selection", "cast"),
    [
        (Selection("absolute", "1e-4"), None),
        (Selection("bit_equal"), None),
        (Selection(), "F32"),
    ],
)
def test_masks_by_two_rules(selection: Selection, cast: str | None, made: Path) -> None:
    measure(
        made / "base",
        made / "two.safetensors",
        mask=mask(made, "rule"),
        selection=selection,
        cast=cast,
    )
    both = [mask(made, "one"), mask(made, "rule")]
    with pytest.raises(UserError, match=r"by the rule '.*--different-rules"):
        overlaps.compare(both)
    summary = overlaps.summarise(overlaps.compare(both, different_rules=True))
    assert len(summary["notes"]) == 1
    # A complement is by the same rule; a random mask by none.
    complement.make(Request([both[1]], mask(made, "complement")))
    with pytest.raises(UserError, match="--different-rules"):
        overlaps.compare([both[0], mask(made, "complement")])
    random.randomise(Mask.open(both[1]), mask(made, "random"), 0)
    assert overlaps.compare([both[0], mask(made, "random")]).notes == []


def test_a_tolerance_is_part_of_the_rule(made: Path) -> None:
    for tolerance in ("1e-4", "1e-5"):
        measure(
            made / "base",
            made / "one.safetensors",
            mask=mask(made, tolerance),
            selection=Selection("absolute", tolerance),
        )
    with pytest.raises(UserError, match=r"absolute 1e-5.*absolute 1e-4|absolute 1e-4.*1e-5"):
        overlaps.compare([mask(made, "1e-5"), mask(made, "1e-4")])


def test_a_mask_that_records_no_origin(made: Path) -> None:
    known = Mask.open(mask(made, "one"))
    masks.write(mask(made, "bare"), {name: known.array(name) for name in known.names})
    summary = overlaps.summarise(overlaps.compare([known.path, mask(made, "bare")]))
    (note,) = summary["notes"]
    assert "bare.safetensors: records no base" in note
    assert summary["origins"][1]["base"] is None


def test_the_command_line(made: Path) -> None:
    both = mask(made, "one"), mask(made, "three")
    with pytest.raises(UserError, match="--different-bases"):
        run("overlap", *both)
    json_ = made / "overlap.json"
    output = run("overlap", *both, "--different-bases", "--json", json_)
    assert "three.safetensors" in output and "compared share 100.00%" in output
    assert len(json.loads(json_.read_text())["notes"]) == 1
    union = made / "union.safetensors"
    with pytest.raises(UserError, match="--different-bases"):
        run("mask", "union", *both, "--output", union)
    assert not union.exists()
    output = run("mask", "union", *both, "--output", union, "--different-bases")
    assert "three.safetensors" in output
    assert Mask.open(union).metadata["before"] == ""
    assert Mask.open(union).metadata["rule"] == "equal"
