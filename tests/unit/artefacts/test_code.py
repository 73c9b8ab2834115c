"""An artefact is made again if what it is made by changes, and only then."""

from pathlib import Path

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("numpy")

from subnetworks import artefacts
from subnetworks.artefacts import code

LIBRARY = Path(artefacts.__file__).parents[1]


@pytest.mark.parametrize("artefact", artefacts.every().values(), ids=artefacts.every())
def test_an_artefact_is_made_by_its_own_module_and_what_that_shares(
    artefact: artefacts.Artefact,
) -> None:
    found = {path.relative_to(LIBRARY).as_posix() for path in code.of_artefact(artefact)}
    assert f"artefacts/{artefact.name}.py" in found
    assert {"artefacts/base.py", "artefacts/published.py", "core/results.py"} <= found
    # What it claims is the report's; what only computes or reads checkpoints is not shown.
    assert "artefacts/claims.py" not in found
    assert all(name.startswith("artefacts/") or name == "core/results.py" for name in found)


def test_the_report_is_made_by_its_pages_and_all_claims() -> None:
    found = {path.relative_to(LIBRARY).as_posix() for path in code.of_report()}
    assert {"artefacts/claims.py", "report/page.css", "report/contents.py"} <= found
    assert "artefacts/table_1_update_sparsity.py" not in found
