"""Settings models: they read back what they write, and schema and tables are made of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("jsonschema")
pytest.importorskip("hypothesis")

import jsonschema
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subnetworks.experiment import models, reading, schemas
from subnetworks.training.algorithms import ALGORITHMS
from subnetworks.training.settings import Settings, parse_settings

ROOT = Path(__file__).parents[3]
FINITE = {"allow_nan": False, "allow_infinity": False}
SETTINGS = {
    "seed": st.integers(0, 2**31),
    "steps": st.integers(10, 10**6),
    "batch_size": st.integers(2, 4096),
    "micro_batch_size": st.none() | st.integers(1, 512),
    "learning_rate": st.floats(0, 1, **FINITE),
    "schedule": st.sampled_from(["constant", "linear", "cosine"]),
    "warmup_steps": st.integers(0, 10),
    "weight_decay": st.floats(0, 1, **FINITE),
    "betas": st.lists(st.floats(0, 0.999, **FINITE), min_size=2, max_size=2),
    "max_grad_norm": st.floats(0, 1e30, **FINITE),
    "trajectory_every": st.integers(0, 10),
    "save_dtype": st.sampled_from(["bfloat16", "float32"]),
    "master_weights": st.sampled_from(["float32", "none", "kahan", "stochastic_rounding"]),
    "verl": st.dictionaries(
        st.text("abc.", min_size=1), st.none() | st.booleans() | st.text() | st.floats(**FINITE)
    ),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(algorithm=st.sampled_from(sorted(ALGORITHMS)), values=st.fixed_dictionaries(SETTINGS))
def test_settings_come_back_from_yaml_and_json_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, algorithm: str, values: dict[str, Any]
) -> None:
    parsed = parse_settings({"algorithm": algorithm, **values})
    file = tmp_path_factory.mktemp("yaml") / "settings.yaml"
    file.write_text(yaml.safe_dump(parsed.as_json()), encoding="utf-8")
    assert parse_settings(reading.read(file).value) == parsed
    assert parse_settings(json.loads(json.dumps(parsed.as_json()))) == parsed


@pytest.mark.parametrize("text", ["5e-7", "5E-7", "5.e-7", "+.5e-6", "0.0000005", "5.0e-07"])
def test_a_number_is_read_as_the_number_that_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {text}")
    assert reading.read(tmp_path / "x.yaml").value == {"a": float(text)}


@pytest.mark.parametrize("text", ["'5e-7'", "5e-7x", "e7", "6e4ed1a2a79a", "1.2.3"])
def test_text_stays_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {text}")
    assert reading.read(tmp_path / "x.yaml").value == {"a": text.strip("'")}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_reader_agrees_with_pyyaml_where_both_read_the_same(path: Path) -> None:
    assert reading.read(path).value == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_schemas_are_valid_and_take_the_shipped_files() -> None:
    for name in schemas.SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(schemas.schema(name))
    config = reading.read(ROOT / "config.yaml").value
    jsonschema.validate(config, schemas.schema("config"))
    for path in (ROOT / "experiments").glob("*.yaml"):
        jsonschema.validate(reading.read(path).value, schemas.schema("experiment"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"checkpoints": {}, "rums": {}}, schemas.schema("experiment"))


def test_every_option_of_an_algorithm_is_described_once_in_the_tables() -> None:
    tables = schemas.tables("experiment")
    for name, kind in ALGORITHMS.items():
        part = tables.split(f"### runs: {name}\n")[1].split("###")[0]
        for key, field in kind.model_fields.items():
            assert field.description or key == "algorithm", (name, key)
            own = key not in Settings.model_fields
            assert (f"| `{key}` |" in part) == (own or key == "algorithm"), (name, key)


def test_a_run_in_an_experiment_takes_all_that_its_training_takes() -> None:
    beyond = {"init", "data", "mask", "epochs", "warmup_ratio"}
    for name, kind in ALGORITHMS.items():
        assert set(models.RUNS[name].model_fields) == set(kind.model_fields) | beyond


IPO = """
from typing import Literal
from subnetworks.training.settings import PreferenceSettings
class IpoSettings(PreferenceSettings):
    algorithm: Literal["ipo"] = "ipo"
    beta: float = 0.1
SETTINGS = IpoSettings
def loss(log_probs, data, settings):
    return log_probs, log_probs
"""
READ = """
from subnetworks.experiment import models, schemas
from subnetworks.training.settings import parse_settings
from subnetworks.core.validation import parse
run = {"algorithm": "ipo", "init": "a", "data": "b", "steps": 1, "learning_rate": 1, "beta": 2}
file = {"checkpoints": {"a": {"make": "base"}}, "runs": {"x": run}}
print(parse(models.ExperimentFile, file, "x").runs["x"].beta)
print(parse_settings({"algorithm": "ipo", "steps": 1, "learning_rate": 1}).beta)
print("### runs: ipo" in schemas.tables("experiment"))
"""


def test_a_new_algorithm_is_one_file(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    (tmp_path / "src" / "subnetworks" / "training" / "algorithms" / "ipo.py").write_text(IPO)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2.0", "0.1", "True"], done.stderr
