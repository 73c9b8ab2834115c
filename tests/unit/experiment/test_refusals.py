"""Every mistake in an experiment is one line: file, line, key, what is wrong, what is allowed."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("pydantic")

from subnetworks.core.errors import UserError
from subnetworks.core.validation import parse
from subnetworks.experiment import checks, configuration, inputs, load, models, reading

ROOT = Path(__file__).parents[3]
SMALL = """\
checkpoints:
  base: { make: base }
  mine: { path: mine }
datasets:
  talks: { make: demonstrations, rows: 64 }
  sums: { make: problems }
  pairs: { make: preferences, policy: sft }
  right: { sample: sums, policy: sft }
runs:
  sft: { algorithm: sft, init: base, data: talks, steps: 4, learning_rate: 1e-3, batch_size: 8 }
  grpo:
    algorithm: grpo
    init: sft
    data: sums
    steps: 4
    learning_rate: 5e-7
    batch_size: 8
    trajectory_every: 2
  kto: { algorithm: kto, init: sft, data: pairs, steps: 4, learning_rate: 5e-7, batch_size: 8 }
  within: { like: grpo, mask: grpo }
  own: { algorithm: sft, init: mine, data: talks, epochs: 1, learning_rate: 1, max_length: 64 }
masks:
  early: { early: { run: grpo, steps: 2 } }
  large: { magnitude: { checkpoint: sft, density: 0.5 } }
benchmarks:
  math: { task: math500, make: math500 }
  file: { task: gsm8k, data: rows.jsonl, shots: 0 }
evaluation:
  grpo: { benchmarks: [math] }
"""
MACHINE = parse(models.Machine, {"kind": "cpu", "devices": 2, "threads": 1}, "machine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what SMALL names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"max_position_embeddings": 64}')
    (tmp_path / "rewarding.py").write_text("def right(answer, truth):\n    return 1\n")
    return tmp_path


def planned(text: str | bytes, folder: Path) -> None:
    """Read and check an experiment as the workflow does before it plans."""
    path = folder / "small.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    modules = checks.Modules.of(ROOT, folder / "no_environment", folder / "no.txt")
    checks.check(load(path.relative_to(folder)), MACHINE, modules)


REFUSED = [
    # YAML
    ("init: sft", "init: é".encode("latin-1"), "13: not UTF-8 (byte 0xe9): save the file as UTF-8"),
    (
        "    data: sums",
        "    data: sums\n    init: sft",
        "15: runs.grpo: the key 'init' is there twice (first in line 13)",
    ),
    (
        "    steps: 4",
        "    steps: 010",
        "15: runs.grpo.steps: 010 can be read as two different numbers: write it without a leading 0 or a colon, or in quotes if it is text",
    ),
    (
        "    steps: 4",
        "    steps: 1:30",
        "15: runs.grpo.steps: 1:30 can be read as two different numbers: write it without a leading 0 or a colon, or in quotes if it is text",
    ),
    ("5e-7\n", ".nan\n", "16: runs.grpo.learning_rate: .nan is not a finite number"),
    ("5e-7\n", "1e999\n", "16: runs.grpo.learning_rate: 1e999 is not a finite number"),
    (
        "    steps: 4",
        "    steps: [",
        "17: not valid YAML: expected ',' or ']', but got ':', while parsing a flow sequence",
    ),
    # Keys and types
    (
        "    batch_size",
        "    batch_sise",
        "17: runs.grpo: unknown key 'batch_sise' (did you mean 'batch_size'?); allowed: *",
    ),
    (
        "    batch_size: 8",
        "    clip_gradient: 1",
        "17: runs.grpo: 'clip_gradient' is called 'max_grad_norm' now",
    ),
    (
        "    batch_size: 8",
        "    kl_coefficient: 1",
        "17: runs.grpo: 'kl_coefficient' is called 'kl_coef' now",
    ),
    (
        "    batch_size: 8",
        "    stored_as: float32",
        "17: runs.grpo: 'stored_as' is called 'save_dtype' now",
    ),
    (
        "    batch_size: 8",
        "    warmup_share: 0.1",
        "17: runs.grpo: 'warmup_share' is called 'warmup_ratio' now",
    ),
    ("max_length: 64", "too_long: cut", "21: runs.own: 'too_long' is called 'truncation' now"),
    (
        "max_length: 64",
        "truncation: cut",
        "21: runs.own.truncation: 'cut' is not allowed; allowed: error, truncate",
    ),
    (
        "    algorithm: grpo\n",
        "    algorithm: gpro\n",
        "12: runs.grpo: algorithm: 'gpro' is not allowed (did you mean 'grpo'?); allowed: sft, grpo, ppo, prime, raft_plus_plus, dpo, kto, orpo, simpo",
    ),
    (
        "    batch_size: 8",
        "    batch_size: 8.5",
        "17: runs.grpo.batch_size: expected a whole number, got 8.5",
    ),
    (
        "    batch_size: 8",
        "    batch_size: yes",
        "17: runs.grpo.batch_size: expected a whole number, got true",
    ),
    (
        "    batch_size: 8",
        "    batch_size: 0",
        "17: runs.grpo.batch_size: must be at least 1, got 0",
    ),
    ("    learning_rate: 5e-7\n", "", "11: runs.grpo: missing key 'learning_rate'"),
    (
        "    learning_rate: 5e-7\n",
        "    learning_rate: fast\n",
        "16: runs.grpo.learning_rate: expected a number, got 'fast'",
    ),
    (
        "like: grpo,",
        "like: [grpo],",
        "20: runs.within.like: expected the name of a run, got ['grpo']",
    ),
    (
        "like: grpo,",
        "like: gpro,",
        "20: runs.within.like: no run 'gpro' (did you mean 'grpo'?); there are: sft, grpo, kto, within, own",
    ),
    ("like: grpo,", "like: within,", "20: runs.within.like: cycle within -> within through 'like'"),
    (
        "{ make: base }",
        "{ made: base }",
        "2: checkpoints.base: needs exactly one of: make | hub | path",
    ),
    (
        "{ make: base }",
        "{ make: basis }",
        "2: checkpoints.base.make: 'basis' is not allowed (did you mean 'base'?); allowed: base",
    ),
    (
        "make: problems",
        "make: problem",
        "6: datasets.sums: make: 'problem' is not allowed (did you mean 'problems'?); allowed: demonstrations, problems, preferences, foreign_demonstrations, foreign_preferences",
    ),
    (
        "  large: { magnitude: { checkpoint: sft, density: 0.5 } }",
        "  large: { predicted: { run: own, density: 0.5 } }",
        "24: masks.large.predicted.run: the run 'own' has epochs: give it steps instead",
    ),
    (
        "density: 0.5",
        "density: 1.5",
        "24: masks.large.magnitude.density: must lie in [0, 1], got 1.5",
    ),
    (
        "density: 0.5",
        "rank: 4",
        "24: masks.large.magnitude: unknown key 'rank'; allowed: checkpoint, like, density",
    ),
    (
        "  mine: {",
        "  My: {",
        "3: checkpoints.My: expected a name of lower-case letters, digits and underscores, got 'My'",
    ),
    ("[math]", "math", "29: evaluation.grpo.benchmarks: expected a list, got 'math'"),
    ("[math]", "[]", "29: evaluation.grpo.benchmarks: needs at least 1, got []"),
    # Values that contradict each other
    ("    steps: 4", "    steps: 1", "18: runs.grpo: trajectory_every (2) exceeds steps (1)"),
    (
        "    batch_size: 8",
        "    warmup_steps: 5",
        "17: runs.grpo: warmup_steps (5) exceeds steps (4)",
    ),
    (
        "    batch_size: 8",
        "    epochs: 2",
        "17: runs.grpo: epochs and steps say the same thing: give one",
    ),
    ("    steps: 4\n", "", "11: runs.grpo: needs exactly one of: steps | epochs"),
    (
        "    batch_size: 8",
        "    kl: loss",
        "11: runs.grpo: kl 'loss' contradicts kl_coef 0: set kl to loss or reward and a kl_coef above 0, or neither",
    ),
    (
        "    batch_size: 8",
        "    updates_per_step: 3",
        "17: runs.grpo: batch_size (32) must be a multiple of updates_per_step (3)",
    ),
    (
        "    batch_size: 8",
        "    samples_per_prompt: 1",
        "17: runs.grpo.samples_per_prompt: must be at least 2, got 1",
    ),
    ("    batch_size: 8", "    betas: [0.9, 1.0]", "17: runs.grpo.betas.1: must be below 1, got 1"),
    (
        "    batch_size: 8",
        "    verl: { data: { seed: 1 } }",
        "17: runs.grpo: verl: 'data.seed' is set by the run itself (data.seed: 0); leave it out, and set the run's own key",
    ),
    (
        "steps: 2 }",
        "steps: 3 }",
        "23: masks.early.early.steps: the run 'grpo' keeps no step 3; there are: 2, 4",
    ),
    (
        "{ early: { run: grpo, steps: 2 } }",
        "{ fisher: { run: grpo, density: 0.1, batches: 5 } }",
        "23: masks.early.fisher.batches: must be at most the updates of 'grpo' (4), got 5",
    ),
    (
        "{ early: { run: grpo, steps: 2 } }",
        "{ gradient_signal: { run: kto, density: 0.1 } }",
        "23: masks.early.gradient_signal.batches: must be at most the updates of 'kto' (4), got 16",
    ),
    (
        "{ early: { run: grpo, steps: 2 } }",
        "{ product: { run: kto, density: 0.1, batches: 2, of: [fisher, magnitude] } }",
        "23: masks.early.product.of.1: 'magnitude' is not allowed; allowed: fisher, "
        "gradient_signal, predicted",
    ),
    # What a run meets
    (
        "    data: sums",
        "    data: talks",
        "14: runs.grpo.data: 'talks' has conversations, but grpo needs problems; there are: sums",
    ),
    (
        "sample: sums",
        "sample: pairs",
        "8: datasets.right.sample: 'pairs' has preferences, but sampling needs problems; there are: sums",
    ),
    (
        "rows: 64",
        "rows: 4",
        "10: runs.sft: batch_size (8) exceeds what the data set 'talks' has (4); make more rows or lower it",
    ),
    (
        "    batch_size: 8",
        "    batch_size: 7",
        "17: runs.grpo: batch_size (7) must be a multiple of the accelerator's devices (2)",
    ),
    (
        "batch_size: 8 }\n  within",
        "batch_size: 8, validate_every: 2 }\n  within",
        "19: runs.kto.validate_every: the data set 'pairs' holds no rows out: give it validation, or leave validate_every out",
    ),
    (
        "  within: { like: grpo, mask: grpo }",
        "  within: { like: kto, mask: grpo, lora_rank: 8 }",
        "20: runs.within.lora_rank: lora_rank and a mask exclude each other",
    ),
    (
        "  within: { like: grpo, mask: grpo }",
        "  within: { like: grpo, mask: grpo, lora_rank: 8, trajectory_every: 0 }",
        "20: runs.within.lora_rank: lora_rank and a mask exclude each other",
    ),
    (
        "mask: grpo }",
        "mask: sft }",
        "20: runs.within.mask: the mask 'sft' is drawn on 'base', but the run starts from 'sft': use a mask made for this init",
    ),
    (
        "max_length: 64",
        "max_length: 65",
        "21: runs.own: max_length (65) exceed the context of the init (64 tokens); lower it",
    ),
    (
        "    batch_size: 8",
        "    reward: boxt",
        "17: runs.grpo.reward: 'boxt' is not allowed (did you mean 'boxed'?); allowed: math, boxed, gsm8k, random, format, length, package.module:function",
    ),
    (
        "    batch_size: 8",
        "    reward: nowhere:f",
        "17: runs.grpo.reward: there is no module 'nowhere' for 'nowhere:f'; put its file beside the Snakefile, or name a function of a module that the training environment has",
    ),
    (
        "    batch_size: 8",
        "    reward: rewarding:wrong",
        "17: runs.grpo.reward: the module 'rewarding' has no function 'wrong'",
    ),
    (
        "    batch_size: 8",
        "    reward: subnetworks.training.reward:f",
        "17: runs.grpo.reward: there is no module 'subnetworks.training.reward' for 'subnetworks.training.reward:f'",
    ),
    # Benchmarks
    (
        "task: math500,",
        "task: math50,",
        "26: benchmarks.math: task: 'math50' is not allowed (did you mean 'math500'?); allowed: *",
    ),
    (
        "make: math500",
        "make: agieval",
        "26: benchmarks.math: the rows of make: agieval are not those of math500; make: math500",
    ),
    (
        "task: gsm8k, data: rows.jsonl",
        "task: gsm8k, make: math500",
        "27: benchmarks.file: the rows of make: math500 are not those of gsm8k; name its rows with data",
    ),
    ("data: rows.jsonl", "data: gone.jsonl", "27: benchmarks.file: data: gone.jsonl: no such file"),
    (
        "shots: 0",
        "shots: 5",
        "27: benchmarks.file: train.jsonl: no such file, but the 5 examples in each prompt come from there; make it or set shots: 0",
    ),
    (
        "data: rows.jsonl, ",
        "",
        "27: benchmarks.file: revision: expected a commit (40 hexadecimal digits) of openai/gsm8k, got nothing; or name local rows with data",
    ),
    (
        "make: math500 }",
        "make: math500, rows: 9999 }",
        "26: benchmarks.math: rows: must be at most *",
    ),
    (
        "make: math500 }",
        "make: math500, samples: 2 }",
        "26: benchmarks.math: samples: 2 greedy answers would all be the same; set a temperature",
    ),
    (
        "[math]",
        "[maths]",
        "29: evaluation.grpo.benchmarks: no benchmark 'maths' (did you mean 'math'?); there are: file, math",
    ),
]


def test_what_is_right_is_planned(folder: Path) -> None:
    planned(SMALL, folder)
    planned(SMALL.replace("    batch_size: 8", "    reward: rewarding:right"), folder)
    # A run may leave out what the one it is like has, and a mask of the same weights is no other's.
    planned(SMALL + "controls:\n  runs:\n    free: { like: within, mask: null }\n", folder)


LOCAL = "  talks: { path: rows.jsonl, gives: conversations }"


def test_data_of_ones_own_are_planned(folder: Path) -> None:
    path = folder / "small.yaml"
    local = LOCAL.replace("rows.jsonl", "rows*.jsonl")
    path.write_text(SMALL.replace("  talks: { make: demonstrations, rows: 64 }", local))
    (folder / "rows2.jsonl").write_text("{}\n")
    experiment = load(path)
    checks.check(experiment, MACHINE, checks.Modules([folder]))
    assert inputs.files_behind(experiment.datasets["talks"]["path"]) == [
        "rows.jsonl",
        "rows2.jsonl",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows.jsonl", "none.csv", "5: datasets.talks.path: none.csv: no such file; name one of "),
        ("rows.jsonl", "rewarding.py", "5: datasets.talks.path: rewarding.py: not a file of rows"),
        ("rows.jsonl", "mine", "5: datasets.talks.path: mine: a folder; name a file in it, or "),
        ("conversations }", "problems }", "runs.sft.data: 'talks' has problems, but sft needs "),
        (" }", ", where: { a: { b: c } } }", "datasets.talks.where.a: expected a value or a list "),
        (" }", ", colums: {} }", "datasets.talks: unknown key 'colums' (did you mean 'columns'?)"),
        (" }", ", rows: 4 }", "batch_size (8) exceeds what the data set 'talks' has (4)"),
    ],
)
def test_a_mistake_in_data_of_ones_own_is_one_line(
    folder: Path, old: str, new: str, message: str
) -> None:
    path = folder / "small.yaml"
    local = LOCAL.replace(old, new)
    path.write_text(SMALL.replace("  talks: { make: demonstrations, rows: 64 }", local))
    with pytest.raises(UserError) as refused:
        checks.check(load(path), MACHINE, checks.Modules([folder]))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


MIXED = """\
  talks: { mix: { these: 1, styled: 2 }, rows: 64 }
  these: { make: demonstrations }
  styled: { make: foreign_demonstrations }"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("these: 1", "those: 1", "5: datasets.talks.mix: no dataset 'those' (did you mean 'these"),
        (", styled: 2", "", "5: datasets.talks.mix: needs at least 2, got {'these': 1}"),
        ("these: 1", "these: 0", "5: datasets.talks.mix.these: must be above 0, got 0"),
        ("styled: 2", "sums: 2", "5: datasets.talks.mix.sums: 'sums' has problems, but a mixture "),
        ("styled: 2", "talks: 2", "cycle datasets.talks -> datasets.talks; break it"),
        ("rows: 64", "rows: 4", "batch_size (8) exceeds what the data set 'talks' has (4)"),
    ],
)
def test_mixtures_are_of_other_data_sets_of_one_kind(
    folder: Path, old: str, new: str, message: str | None
) -> None:
    path = folder / "small.yaml"
    mixed = MIXED.replace(old, new) if old else MIXED
    path.write_text(SMALL.replace("  talks: { make: demonstrations, rows: 64 }", mixed))
    if message is None:
        experiment = load(path)
        checks.check(experiment, MACHINE, checks.Modules([folder]))
        parts = inputs.of_mixture(experiment, "talks")["parts"]
        assert parts == ["data/styled/manifest.json", "data/these/manifest.json"]
        return
    with pytest.raises(UserError) as refused:
        checks.check(load(path), MACHINE, checks.Modules([folder]))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_a_mistake_is_one_line(folder: Path, old: str, new: str | bytes, message: str) -> None:
    assert SMALL.count(old) >= 1, old
    text = SMALL.encode().replace(old.encode(), new.encode() if isinstance(new, str) else new, 1)
    with pytest.raises(UserError) as refused:
        planned(text, folder)
    said = str(refused.value)
    whole, ends_openly, _ = f"small.yaml:{message}".partition("*")
    assert said == whole or (ends_openly and said.startswith(whole))


def test_a_mistake_among_the_controls_has_its_line(folder: Path) -> None:
    text = SMALL + "controls:\n  runs:\n    more:\n      like: grpo\n      init: sfft\n"
    with pytest.raises(UserError, match=r"^small.yaml:34: controls.runs.more.init: no checkpoint"):
        planned(text, folder)
    with pytest.raises(UserError, match=r"^small.yaml:34: controls.runs.more: unknown key 'inlt'"):
        planned(text.replace("init: sfft", "inlt: sft"), folder)


def test_a_reward_that_only_the_training_environment_has_is_not_refused(folder: Path) -> None:
    (folder / "train.txt").write_text("Some-Package==1.0 \\\n    --hash=sha256:0\n")
    path = folder / "small.yaml"
    path.write_text(SMALL.replace("    batch_size: 8", "    reward: some_package.inner:f"))
    modules = checks.Modules.of(ROOT, folder / "no_environment", folder / "train.txt")
    checks.check(load(path), MACHINE, modules)
    assert "some_package" not in sys.modules


CONFIG = reading.read(ROOT / "config.yaml").value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"acelerator": "cpu"},
            "config.yaml: unknown key 'acelerator' (did you mean 'accelerator'?); allowed: experiment, accelerator, accelerators, environments, cache, local",
        ),
        (
            {"accelerator": "tpu"},
            "config.yaml: accelerator: no entry 'tpu' in accelerators; there are: cpu, cuda",
        ),
        (
            {"experiment": "../mini"},
            "config.yaml: experiment: expected the name of an experiment, got '../mini'",
        ),
        (
            {"accelerators": {"cpu": {"kind": "cpu", "devices": 1}}},
            "config.yaml: accelerators.cpu: missing key 'threads'",
        ),
        (
            {
                "accelerators": {
                    "cpu": {**CONFIG["accelerators"]["cpu"], "evaluation": {"max_model_length": 3}}
                }
            },
            "config.yaml: accelerators.cpu.evaluation: unknown key 'max_model_length' (did you mean 'max_model_len'?); allowed: *",
        ),
        (
            {"checkpoints": {}, "runs": {}},
            "--configfile: 'checkpoints', 'runs' belong to an experiment, not to the machine's configuration; put the file into experiments/ and name it: --config experiment=NAME",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(change: dict, message: str) -> None:
    assert configuration(CONFIG, ROOT / "config.yaml").machine.kind == "cpu"
    with pytest.raises(UserError) as refused:
        configuration({**CONFIG, **change}, ROOT / "config.yaml")
    whole, ends_openly, _ = message.partition("*")
    said = str(refused.value)
    assert said == whole or (ends_openly and said.startswith(whole))
