"""What is asked of the Hub: names that mean one thing, and files that are needed once."""

import pytest

from subnetworks.errors import UserError
from subnetworks.hub.sources import Source, needed, parse, safe


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


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b/c", "owner/name@", "owner/na me@main", "../name", "owner/..", "owner/name@../x"),
        *("owner/name@$(touch pwned)", "owner/name;touch pwned", "owner/name@main\n", "-o/name"),
        *("owner/name@a..b", "owner/name@--help", "/etc/passwd", "http://x/y", "owner/näme"),
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


@pytest.mark.parametrize(
    ("offered", "weights"),
    [
        (["model.safetensors", INDEX], ["model.safetensors"]),
        ([*SHARDS, INDEX, "consolidated.safetensors", "original/a.safetensors"], [*SHARDS, INDEX]),
        ([*SHARDS, INDEX, "model.fp16.safetensors"], [*SHARDS, INDEX]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["weights_a.safetensors", "weights_b.safetensors"], None),
        (["unet/model.safetensors", "vae/model.safetensors", "original/x.safetensors"], 2),
        (["pytorch_model.bin", "model.pt", "x.gguf", "flax_model.msgpack"], []),
    ],
)
def test_weights_are_taken_once(offered: list[str], weights: list[str] | int | None) -> None:
    if weights is None:
        weights = offered
    if isinstance(weights, int):
        weights = offered[:weights]
    extra = ["README.md", "tokenizer.pkl", "tokenizer_own.py", "modeling_own.py", "a/config.yaml"]
    assert needed([*offered, *BESIDE, *extra]) == sorted([*weights, *BESIDE])
    with_code = needed([*offered, *BESIDE, *extra], code=True)
    assert set(with_code) == {*weights, *BESIDE, "tokenizer_own.py", "modeling_own.py"}


def test_a_whole_model_beside_shards_is_refused() -> None:
    with pytest.raises(UserError, match=r"both .* name one: hub:o/n@main:model.safetensors"):
        needed(["model.safetensors", *SHARDS, INDEX], where="hub:o/n@main")
