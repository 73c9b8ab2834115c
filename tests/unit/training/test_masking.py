import numpy
import pytest

pytest.importorskip("safetensors")

from subnetworks.core.errors import UserError
from subnetworks.measuring import masks
from subnetworks.training.engine import masking

SHAPES = {"a.weight": (3, 4), "b.weight": (5,)}


def mask_file(tmp_path, shapes, value=True):
    path = tmp_path / "mask.safetensors"
    masks.write(path, {name: numpy.full(shape, value) for name, shape in shapes.items()})
    return path


def check(path, tied=False):
    masking.check(path, path.parent / "init", SHAPES, tied)


def test_a_mask_of_the_init_is_taken(tmp_path):
    check(mask_file(tmp_path, SHAPES))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"a.weight": (3, 4)}, ["has no tensor 'b.weight'"]),
        ({**SHAPES, "c.weight": (1,)}, ["'c.weight'", "lacks"]),
        ({**SHAPES, "a.weight": (4, 3)}, ["a.weight has shape [4, 3]", "[3, 4]"]),
    ],
)
def test_a_mask_of_another_model_is_refused_by_its_first_mismatch(tmp_path, shapes, words):
    with pytest.raises(UserError) as caught:
        check(mask_file(tmp_path, shapes))
    for word in ["mask.safetensors", *words]:
        assert word in str(caught.value)


def test_a_mask_that_freezes_everything_is_refused(tmp_path):
    with pytest.raises(UserError, match="freezes all 17 entries"):
        check(mask_file(tmp_path, SHAPES, value=False))


def test_a_tied_head_needs_no_mask_of_its_own(tmp_path):
    shapes = {**SHAPES, "lm_head.weight": (2, 2)}
    path = mask_file(tmp_path, SHAPES)
    masking.check(path, tmp_path, shapes, tied=True)
    with pytest.raises(UserError, match="lm_head"):
        masking.check(path, tmp_path, shapes, tied=False)
