"""What a delta gives back beside the weights: all that makes the checkpoint what it was."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run as call
from checkpoints_made import bf16, llama, save

from subnetworks import checkpoints
from subnetworks.checkpoints import companions, deltas
from subnetworks.checkpoints.identity import digest
from subnetworks.core.errors import UserError

BASE = {
    "config.json": '{"vocab_size": 50}',
    "generation_config.json": "{}",
    "tokenizer.json": '{"old": 1}',
    "special_tokens_map.json": "{}",
    "README.md": "the base",
    "modeling_own.py": "same = 1",
}
AFTER = {
    "config.json": '{"vocab_size": 64, "tie_word_embeddings": false}',
    "tokenizer.json": '{"new": 1}',
    "generation_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
    "empty.txt": "",
    "README.md": "tuned",
    "modeling_own.py": "same = 1",
    "configuration_own.py": "raise SystemExit('ran')",
}
NOT_CARRIED = {"README.md", "configuration_own.py"}


def folder(path, tensors, files):
    save(path / "model.safetensors", tensors)
    for name, text in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)


def run(*arguments):
    if arguments[0] == "delta":  # of a resized vocabulary: much is stored whole
        arguments = (*arguments, "--allow-partial")
    return call(*arguments)


@pytest.fixture
def pair(tmp_path):
    """A base, and what became of it: a resized vocabulary, another tokenizer and configuration."""
    rng = np.random.default_rng(0)
    before = llama(rng)
    after = {
        name: (dtype, np.concatenate([bits, bits[:14]]) if len(bits) == 50 else bits)
        for name, (dtype, bits) in before.items()
    }
    folder(tmp_path / "base", before, BASE)
    folder(tmp_path / "after", {**after, "v_head.weight": bf16(rng.random((1, 24)))}, AFTER)
    return tmp_path / "base", tmp_path / "after"


def files(path):
    return {
        one.relative_to(path).as_posix(): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and not one.name.startswith("manifest.json")
    }


def test_applying_gives_configuration_and_tokenizer_back_too(pair, tmp_path):
    said = run("delta", *pair, "--output", tmp_path / "d.safetensors")
    assert "README.md, configuration_own.py" in said.replace("\n", " ")
    run("apply", pair[0], tmp_path / "d.safetensors", "--output", tmp_path / "out")
    found, wanted = files(tmp_path / "out"), files(pair[1])
    assert set(found) == set(wanted) - NOT_CARRIED
    for name in set(found) - {"model.safetensors"}:
        assert found[name] == wanted[name], name
    with checkpoints.open(pair[1]) as one, checkpoints.open(tmp_path / "out") as other:
        assert digest(one) == digest(other)
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert listed["tokenizer.json"]["sha256"] == hashlib.sha256(b'{"new": 1}').hexdigest()


def test_a_delta_stands_for_the_checkpoint_with_its_own_configuration(pair, tmp_path):
    run("delta", *pair, "--output", tmp_path / "d.safetensors")
    with checkpoints.open(tmp_path / "d.safetensors") as opened:
        assert opened.config == json.loads(AFTER["config.json"])
    # Of the delta's own delta, too.
    folder(tmp_path / "last", {"w": bf16(np.ones(3))}, {**AFTER, "empty.txt": "no longer"})
    run(
        "delta",
        tmp_path / "d.safetensors",
        tmp_path / "last",
        "--output",
        tmp_path / "e.safetensors",
    )
    with checkpoints.open(tmp_path / "e.safetensors") as opened:
        assert opened.beside["tokenizer.json"].content == b'{"new": 1}'
        assert opened.beside["empty.txt"].content == b"no longer"


def test_what_the_base_has_is_not_stored_again(pair, tmp_path):
    run("delta", *pair, "--output", tmp_path / "d.safetensors")
    raw = (tmp_path / "d.safetensors").read_bytes()
    keys = json.loads(raw[8 : 8 + struct.unpack_from("<Q", raw)[0]]).keys()
    assert {key for key in keys if key.endswith("#file")} == {
        f"{name}#file"
        for name in set(AFTER) - NOT_CARRIED - {"generation_config.json", "modeling_own.py"}
    }


def test_a_base_with_another_file_is_refused(pair, tmp_path):
    run("delta", *pair, "--output", tmp_path / "d.safetensors")
    (pair[0] / "generation_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"generation_config\.json is not beside .*base"):
        run("apply", pair[0], tmp_path / "d.safetensors", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_delta_gives_the_bases_files(pair, tmp_path):
    with checkpoints.open(pair[0]) as before, checkpoints.open(pair[1]) as after:
        deltas.write(tmp_path / "d.safetensors", before, after.tensors, base=digest(before))
    assert "files" not in deltas.metadata(tmp_path / "d.safetensors")
    (tmp_path / "config.json").write_text("{}")  # beside the delta, and none of its business
    run("apply", pair[0], tmp_path / "d.safetensors", "--output", tmp_path / "out")
    found, base = files(tmp_path / "out"), files(pair[0])
    assert set(found) == set(base)
    assert found["config.json"] == base["config.json"]


def test_what_is_as_large_as_weights_is_not_carried(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(companions, "LARGEST", 9)
    said = run("delta", *pair, "--output", tmp_path / "d.safetensors")
    assert "tokenizer.json" in said.partition("without")[2]


def forged(path, change):
    """A delta whose header was changed, with a checksum that fits."""
    raw = path.read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    change(header)
    header["__metadata__"].pop("content")
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    content = hashlib.blake2b(text.encode() + data, digest_size=16).hexdigest()
    header["__metadata__"]["content"] = content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/tmp/x.json",
        "..",
        ".",
        "",
        "a/b.json",
        "additional_chat_templates/../x.jinja",
        "additional_chat_templates",
        "x\\y.json",
        "x\n.json",
        "manifest.json",
        "manifest.json.meta.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "code.py",
        "x" * 300 + ".json",
    ],
)
def test_no_name_in_a_delta_leads_elsewhere(pair, tmp_path, name):
    path = tmp_path / "d.safetensors"
    run("delta", *pair, "--output", path)

    def change(header):
        listed = json.loads(header["__metadata__"]["files"])
        listed[name] = listed.pop("tokenizer.json")
        header["__metadata__"]["files"] = json.dumps(listed)
        header[f"{name}#file"] = header.pop("tokenizer.json#file")

    forged(path, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"d\.safetensors: .*(refused|damaged)"):
        run("apply", pair[0], path, "--output", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "value",
    [["0" * 64, 10, "here"], ["0" * 64, 3, "here"], ["0" * 64, 10, "base"], ["0", 1], [], 3, "x"],
)
def test_a_file_is_what_its_digest_says(pair, tmp_path, value):
    path = tmp_path / "d.safetensors"
    run("delta", *pair, "--output", path)

    def change(header):
        listed = json.loads(header["__metadata__"]["files"])
        header["__metadata__"]["files"] = json.dumps({**listed, "tokenizer.json": value})

    forged(path, change)
    with pytest.raises(UserError, match=r"d\.safetensors: .*(damaged|not beside)"):
        run("apply", pair[0], path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_loads_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers

    def model(path, words, seed):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
        made = transformers.LlamaForCausalLM(config)
        made.generation_config.temperature = 0.5 + seed
        made.generation_config.do_sample = True
        made.save_pretrained(path)
        core = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, words[0]))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token=words[0])
        tokenizer.chat_template = f"{{{{ messages }}}} {seed}"
        tokenizer.save_pretrained(path)
        return made

    words = ["?", "one", "two", "three"]
    model(tmp_path / "base", words, 0)
    after = model(tmp_path / "after", [*words, "four", "five"], 1)
    run("delta", tmp_path / "base", tmp_path / "after", "--output", tmp_path / "d.safetensors")
    run("apply", tmp_path / "base", tmp_path / "d.safetensors", "--output", tmp_path / "out")

    def loaded(kind, where: Path):
        return kind.from_pretrained(where)

    found = loaded(transformers.AutoModelForCausalLM, tmp_path / "out")
    for name, tensor in after.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert found.config.vocab_size == 6
    assert found.generation_config.temperature == 1.5
    tokenizer = loaded(transformers.AutoTokenizer, tmp_path / "out")
    assert tokenizer("four five")["input_ids"] == [4, 5]
    assert tokenizer.chat_template == "{{ messages }} 1"
