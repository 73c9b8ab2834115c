"""Two checkpoints and an update between them."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, dict[str, Any], dict[str, Any]]:
    """The folders before and after, and what is stored in each."""
    import numpy as np
    from checkpoints_made import llama, save, updated

    rng = np.random.default_rng(0)
    before = llama(rng)
    after = updated(before, rng)
    for name, tensors in (("before", before), ("after", after)):
        save(tmp_path / name / "model.safetensors", tensors)
    return tmp_path / "before", tmp_path / "after", before, after
