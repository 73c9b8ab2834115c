"""What is asked of the Hub: names that mean one thing, and files that are needed once."""

import pytest

from subnetworks.checkpoints.hub.sources import Source, needed, parse, safe
from subnetworks.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hub:owner/name@v1", "owner/name", "v1"),
        ("hub:owner/name", "owner/name", "main"),
        ("hub:gpt2@refs/pr/1", "gpt2", "refs/pr/1"),
    ],
)
def test_a_source_is_read(text: str, repository: str, revision: str) -> None:
    assert parse(text) == Source(repository, revision)
    for inside in ("folder", "step_10/actor", "a/model.safetensors"):
        found = parse(f"{text}:{inside}")
        assert found == Source(repository, revision, inside=inside)
        assert str(found) == f"hub:{repository}@{revision}:{inside}"
        assert found.key == f"model {repository}@{revision}:{inside}"


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b/c", "owner/name@", "owner/na me@main", "../name", "owner/..", "owner/name@../x"),
        *("owner/name@$(touch pwned)", "owner/name;touch pwned", "owner/name@main\n", "-o/name"),
        *("owner/name@a..b", "owner/name@--help", "/etc/passwd", "http://x/y", "owner/näme"),
        *("o/n@main:../x", "o/n:/x", "o/n:x/", "o/n:a b", "o/n:.", "o/n:a//b", "o/n@main:a\n"),
    ],
)
def test_what_names_no_source_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="owner/name@revision") as error:
        parse(f"hub:{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../x", "a\\x", "a\nb", "", ".", "..", "a//b", "a/", "./a", "a\0b"]
)
def test_a_file_that_would_lie_elsewhere_is_refused(name: str) -> None:
    assert not safe(name)
    if name.endswith("x") and name:
        weights = f"{name}.safetensors"
        with pytest.raises(UserError):
            Source("o/n", kind="dataset").needed([weights])


BESIDE = ["config.json", "tokenizer.json"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
BINS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
BIN_INDEX = "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    ("offered", "weights"),
    [
        (["model.safetensors", INDEX], ["model.safetensors"]),
        ([*SHARDS, INDEX, "consolidated.safetensors", "original/a.safetensors"], [*SHARDS, INDEX]),
        ([*SHARDS, INDEX, "model.fp16.safetensors"], [*SHARDS, INDEX]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["weights_a.safetensors", "weights_b.safetensors"], None),
        (["unet/model.safetensors", "vae/model.safetensors", "original/x.safetensors"], 2),
        (["x.gguf", "flax_model.msgpack", "training_args.bin", "optimizer.pt"], []),
        (["pytorch_model.bin", "model.pt", "x.gguf", "training_args.bin"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "model.safetensors", *BINS, BIN_INDEX], ["model.safetensors"]),
        ([*BINS, BIN_INDEX, "optimizer.bin", "original/x.00.pth"], [*BINS, BIN_INDEX]),
        (BINS, BINS),
        (["consolidated.00.pth", "params.json"], ["consolidated.00.pth"]),
        (["model.ckpt", "rng_state_0.pth", "scheduler.pt"], ["model.ckpt"]),
    ],
)
def test_weights_are_taken_once(offered: list[str], weights: list[str] | int | None) -> None:
    if weights is None:
        weights = offered
    if isinstance(weights, int):
        weights = offered[:weights]
    extra = ["README.md", "tokenizer.pkl", "tokenizer_own.py", "modeling_own.py", "a/config.yaml"]
    if not weights:
        assert needed([*offered, *BESIDE, *extra]) == []
        return
    assert needed([*offered, *BESIDE, *extra]) == sorted([*weights, *BESIDE])
    with_code = needed([*offered, *BESIDE, *extra], code=True)
    assert set(with_code) == {*weights, *BESIDE, "tokenizer_own.py", "modeling_own.py"}


def test_a_whole_model_beside_shards_is_refused() -> None:
    with pytest.raises(UserError, match=r"both .* name one: hub:o/n@main:model.safetensors"):
        Source("o/n").needed(["model.safetensors", *SHARDS, INDEX])


def test_what_loaders_disagree_on_is_refused() -> None:
    bins = ["pytorch_model.bin", *BINS, BIN_INDEX]
    with pytest.raises(UserError, match=r"both .* name one: here/pytorch_model.bin or here/pyt"):
        needed(bins)
    with pytest.raises(UserError, match="adapter beside a whole model"):
        needed(["model.safetensors", "adapter_config.json", "adapter_model.safetensors"])
    with pytest.raises(UserError, match=r"several files that may be the model \(a.pt, b.pt\)"):
        needed(["a.pt", "b.pt"])
    with pytest.raises(UserError, match=r"consolidated.00.pth: one of 2 files"):
        needed(["consolidated.00.pth", "consolidated.01.pth"])
    for shards, missing in ((SHARDS, SHARDS[1]), (BINS, BINS[0])):
        with pytest.raises(UserError, match=rf"here/{missing}: missing, though 1 of 2 files"):
            needed([name for name in shards if name != missing])


def test_a_folder_or_a_file_of_a_repository() -> None:
    names = [*SHARDS, INDEX, "config.json", "a/b/model.safetensors", "a/b/config.json", "a/x.py"]
    names += ["model.safetensors", "a/b/c/model.safetensors"]
    wanted = {
        "a/b": ["a/b/config.json", "a/b/model.safetensors"],
        "a/b/c": ["a/b/c/model.safetensors"],
        "a/b/model.safetensors": ["a/b/config.json", "a/b/model.safetensors"],
        "model.safetensors": ["config.json", "model.safetensors"],
        INDEX: ["config.json", *SHARDS, INDEX],
    }
    for inside, files in wanted.items():
        assert Source("o/n", inside=inside).needed(names) == sorted(files)
    for inside in ("b", "a/b/mod", "other.safetensors"):
        with pytest.raises(UserError, match=f"hub:o/n@main:{inside}: no "):
            Source("o/n", inside=inside).needed(names)


def test_an_adapter_comes_with_its_configuration() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"]
    assert needed(names) == names[:3]
