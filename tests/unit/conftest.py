"""A made-up experiment, once a session."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def made_up() -> ModuleType:
    """The module that makes up results; skips where the figures' packages are missing."""
    pytest.importorskip("polars")
    import fabricate

    return fabricate


@pytest.fixture(scope="session")
def results(made_up: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.make(tmp_path_factory.mktemp("made_up") / "results" / "mini")


@pytest.fixture
def context(results: Path, made_up: ModuleType) -> Any:
    """`context("table_…")`: that artefact's context over the made-up results."""
    from subnetworks.core.results import Context

    def of(name: str, **changes: Any) -> Context:
        spec = made_up.SPECS[name] | changes
        return Context(results, ROOT / "workflow" / "published", spec)

    return of
