"""Checkpoints as they were reported to other tools' issue trackers: the right number, or one line.

Each test names the reports that it was rebuilt from. Everything goes through the command line.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from calling import run
from checkpoints_made import bf16, llama, save, save_sharded, updated

from subnetworks.core.errors import UserError

UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def refused(*arguments):
    with pytest.raises(UserError) as error:
        run(*arguments)
    (line,) = str(error.value).splitlines()
    return line


def measured(before, after, *options):
    """The summary of `measure`."""
    return json.loads(run("measure", before, after, "--json", "-", *options))


def folder(path, tensors, config=None, **files):
    save(path / "model.safetensors", tensors)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (path / f"{name}.json").write_text(text)
    return path


def unchanged(before, after):
    """How many entries are the same bits, and how many there are."""
    same = sum(int((before[name][1] == after[name][1]).sum()) for name in before)
    return same, sum(bits.size for _, bits in before.values())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pair(rng, tmp_path):
    before = llama(rng)
    folder(tmp_path / "before", before, UNTIED)
    return before, updated(before, rng)


def test_a_shard_is_missing_and_there_is_no_index(pair, tmp_path):
    """vllm 34859, sglang 32279."""
    names = list(pair[1])
    cuts = [names[:5], names[5:10], names[10:]]
    save_sharded(tmp_path / "after", pair[1], cuts, index=False)
    (tmp_path / "after/model-00002-of-00003.safetensors").unlink()
    line = refused("measure", tmp_path / "before", tmp_path / "after")
    assert "model-00002-of-00003.safetensors: missing" in line


@pytest.mark.parametrize("all_of_them", [False, True])
def test_zero_3_was_saved_without_gathering(pair, tmp_path, all_of_them):
    """transformers 20082, accelerate 2698."""
    empty = "BF16", np.empty(0, np.uint16)
    after = {n: empty if all_of_them or t[1].ndim > 1 else t for n, t in pair[1].items()}
    folder(tmp_path / "after", after, UNTIED)
    for verb in ("measure", "rank"):
        line = refused(verb, tmp_path / "before", tmp_path / "after")
        assert "empty (shape 0)" in line and "gather" in line and "--allow-partial" in line


WRAPPED = {
    "a vision-language model (mlx-lm 1197)": ("model.", "model.language_model."),
    "torch.compile (safetensors 403)": ("", "_orig_mod."),
    "torch.compile by layer": (".layers.0.", ".layers.0._orig_mod."),
    "FSDP (transformers 25205)": (".layers.1.", ".layers.1._fsdp_wrapped_module."),
    "DDP": ("", "module."),
    "PEFT (transformers 28041)": ("", "base_model.model."),
    "Lightning": ("", "model."),
    "checkpointing": (".mlp.", "._checkpoint_wrapped_module.mlp."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_are_wrapped(pair, tmp_path, wrapper):
    after = {name.replace(*WRAPPED[wrapper], 1): tensor for name, tensor in pair[1].items()}
    if "vision" in wrapper:
        after["model.visual.patch_embed.proj.weight"] = bf16(np.ones((8, 8)))
    found = measured(tmp_path / "before", folder(tmp_path / "after", after, UNTIED))
    same, n = unchanged(*pair)
    assert (found["bit_equal"], found["n"]) == (same, n)
    assert found["names"]["prefixes"] or found["names"]["after"]["stripped"]
    assert "stripped from" in (said := run("measure", tmp_path / "before", tmp_path / "after")) or (
        "before is" in said
    )


@pytest.mark.parametrize("stored", ["after", "both"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_head_that_the_config_ties_was_trained(pair, tmp_path, stored, nested):
    """peft 2972, transformers 45127, unsloth 9331."""
    before, after = pair
    config = {"text_config": TIED} if nested else TIED
    before[HEAD] = before[EMBEDDING]
    shown = before if stored == "both" else {n: t for n, t in before.items() if n != HEAD}
    folder(tmp_path / "one", shown, config)
    found = measured(tmp_path / "one", folder(tmp_path / "other", after, config))
    assert (found["bit_equal"], found["n"]) == unchanged(before, after)
    assert any("ties" in note and "differ" in note for note in found["notes"])


def test_a_copy_of_the_embedding_counts_once(pair, tmp_path):
    """LlamaFactory 10560."""
    before, after = pair
    del before[HEAD]
    folder(tmp_path / "one", before, TIED)
    folder(tmp_path / "other", after | {HEAD: after[EMBEDDING]}, TIED)
    found = measured(tmp_path / "one", tmp_path / "other")
    assert (found["bit_equal"], found["n"]) == unchanged(before, after)


def junk(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PK\x03\x04" + bytes(100))


def verl(path):
    for rank in range(2):
        junk(path / f"global_step_10/actor/model_world_size_2_rank_{rank}.pt")
    return path


def zero(path):
    step = path / "global_step100"
    junk(step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    junk(step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (path / "latest").write_text("global_step100")
    (path / "zero_to_fp32.py").write_text("#")
    return path


def zero_step(path):
    return zero(path) / "global_step100"


def zero_file(path):
    return zero_step(path) / "zero_pp_rank_0_mp_rank_00_model_states.pt"


def dcp(path):
    for rank in range(2):
        junk(path / f"__{rank}_0.distcp")
    (path / ".metadata").write_bytes(b"x")
    return path


def slices(path):
    """Of which one file does not say where all of its slices lie."""
    for rank in (1, 2):
        name = f"shard-{rank:05d}-model-00001-of-00001.safetensors"
        save(path / "sharded" / name, {"model.norm.weight": bf16(np.ones(4))})
    return path


def cut_short(path):
    junk(path / "pytorch_model.bin")
    return path


def lora(path, inner="."):
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{stem}A.weight": bf16(np.ones((4, 24))), f"{stem}B.weight": bf16(np.ones((24, 4)))}
    save(path / inner / "adapter_model.safetensors", tensors)
    (path / inner / "adapter_config.json").write_text('{"base_model_name_or_path": "x", "r": 4}')
    return path


def lora_within(path):
    return lora(path, "policy")


def lora_file(path):
    return lora(path) / "adapter_model.safetensors"


def written(name, content):
    def write(path):
        path.mkdir()
        (path / name).write_bytes(content)
        return path

    return write


def dead_link(path):
    path.mkdir()
    (path / "model.safetensors").symlink_to("../../blobs/gone")
    return path


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 12345678\n"
PAGE = b"<!doctype html><html><body>Access denied</body></html>"
NO_WEIGHTS = [
    (verl, "python -m verl.model_merger"),  # verl 1438
    (zero, "python zero_to_fp32.py"),  # DeepSpeed 4032
    (zero_step, "python zero_to_fp32.py"),
    (zero_file, "python zero_to_fp32.py"),
    (dcp, "dcp_to_torch"),  # pytorch 154742
    (slices, "consolidate_safetensors_files"),
    (cut_short, "cut short or damaged: fetch it again"),
    (lora, "compare adapter:{path}@BASE"),  # peft 1381
    (lora_within, "compare adapter:{path}/policy@BASE"),
    (lora_file, "compare adapter:{path}@BASE"),
    (written("model.safetensors", POINTER), "git lfs pull"),  # OmniParser 34
    (written("model.safetensors", PAGE), "a web page"),
    (written("m-Q4.gguf", b"GGUF" + bytes(60)), "a GGUF file"),
    (dead_link, "a link to ../../blobs/gone, which is not there: fetch it again"),
]


@pytest.mark.parametrize(("make", "words"), NO_WEIGHTS)
@pytest.mark.parametrize("verb", ["measure", "rank", "delta"])
def test_what_is_no_whole_model_is_said_with_the_remedy(pair, tmp_path, verb, make, words):
    there = make(tmp_path / "after")
    output = ["--output", tmp_path / "d.safetensors"] if verb == "delta" else []
    line = refused(verb, tmp_path / "before", there, *output)
    assert words.format(path=tmp_path / "after") in line


def quantised(weight, powers_of_two):
    """FP8 codes, scales of 16x16 blocks as float32, and the bfloat16 weights that both make."""
    torch = pytest.importorskip("torch")
    blocks = weight.reshape(2, 16, 2, 16).abs().amax((1, 3)) / 448
    if powers_of_two:
        blocks = torch.exp2(torch.ceil(torch.log2(blocks)))
    spread = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
    codes = (weight / spread).to(torch.float8_e4m3fn)
    return codes, blocks, (codes.float() * spread).bfloat16()


@pytest.mark.parametrize("layout", ["weight_scale_inv", "scale", "scale as bytes"])
def test_fp8_is_compared_as_the_weights_it_stands_for(tmp_path, layout):
    """vllm 51946, tokenspeed 1048; and DeepSeek-V3's own layout."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    stem = "model.layers.0.mlp.down_proj."
    weight = (torch.randn(32, 32) * 0.02).bfloat16()
    codes, scales, values = quantised(weight.float(), layout != "weight_scale_inv")
    if layout == "weight_scale_inv":
        stored = "F32", scales.numpy().view(np.uint32)
    else:
        exponents = (torch.log2(scales) + 127).round().to(torch.uint8).numpy()
        stored = ("U8" if "bytes" in layout else "F8_E8M0"), exponents
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    folder(tmp_path / "one", {stem + "weight": bf16(weight.float().numpy())}, UNTIED)
    folder(
        tmp_path / "other",
        {
            stem + "weight": ("F8_E4M3", codes.view(torch.uint8).numpy()),
            stem + layout.split()[0]: stored,
        },
        UNTIED | config,
    )
    found = measured(tmp_path / "one", tmp_path / "other")
    assert found["n"] == 32 * 32 and found["compared_share"] == 1
    assert found["equal"] == int((values == weight).sum())


def test_awq_is_refused_by_name(pair, tmp_path):
    """mergekit 75."""
    stem = "model.layers.0.mlp.down_proj."
    for seed in (0, 1):
        codes = np.random.default_rng(seed).integers(0, 1 << 31, (24, 8)).astype(np.uint32)
        tensors = {
            stem + "qweight": ("I32", codes),
            stem + "qzeros": ("I32", np.zeros((2, 8), np.uint32)),
            stem + "scales": ("F16", np.full((2, 64), 0x3000, np.uint16)),
            EMBEDDING: pair[0][EMBEDDING],
        }
        config = UNTIED | {"quantization_config": {"quant_method": "awq", "bits": 4}}
        folder(tmp_path / f"awq{seed}", tensors, config)
    for before in ("awq0", "before"):
        line = refused("measure", tmp_path / before, tmp_path / "awq1")
        assert "qweight" in line and "(awq)" in line


def test_a_vocabulary_was_padded(pair, tmp_path):
    """mergekit 425 and 465, transformers 25729."""
    before, after = pair
    padded = {
        n: (d, np.pad(bits, ((0, 14), (0, 0))) if n in (HEAD, EMBEDDING) else bits)
        for n, (d, bits) in after.items()
    }
    small, large = ({**UNTIED, "vocab_size": size} for size in (50, 64))
    folder(tmp_path / "one", before, small, tokenizer='{"old": 1}')
    folder(tmp_path / "other", padded, large, tokenizer='{"new": 1}')
    assert "--common-rows" in refused("measure", tmp_path / "one", tmp_path / "other")
    found = measured(tmp_path / "one", tmp_path / "other", "--common-rows")
    assert (found["bit_equal"], found["n"]) == unchanged(before, after)
    delta = tmp_path / "d.safetensors"
    run("delta", tmp_path / "one", tmp_path / "other", "--output", delta)
    run("apply", tmp_path / "one", delta, "--output", tmp_path / "again")
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    found = measured(tmp_path / "other", tmp_path / "again")
    assert found["compared_share"] == 1
    assert found["bit_equal"] == found["n"] == sum(b.size for _, b in padded.values())


def test_masks_of_other_bases_tensors_or_rules_are_not_mixed(pair, rng, tmp_path):
    """SkyRL 1903."""
    before, after = pair
    folder(tmp_path / "after", after, UNTIED)
    other = llama(rng)
    folder(tmp_path / "base2", other, UNTIED)
    folder(tmp_path / "after2", updated(other, rng), UNTIED)
    for name, tensors in (("few", before), ("few_after", after)):
        few = {n: t for n, t in tensors.items() if "mlp" not in n}
        folder(tmp_path / name, few, UNTIED)

    def mask(name, one, two, *options):
        path = tmp_path / f"{name}.safetensors"
        run("measure", tmp_path / one, tmp_path / two, "--mask", path, *options)
        return path

    first = mask("first", "before", "after")
    for words, second in (
        ("--different-bases", mask("second", "base2", "after2")),
        ("--different-bases", mask("third", "few", "few_after")),
        ("--different-rules", mask("fourth", "before", "after", "--rule", "bit_equal")),
    ):
        assert words in refused("overlap", first, second)
    assert "--different-bases" in refused(
        "overlap", first, first, "--magnitude", tmp_path / "base2"
    )


def test_no_output_onto_an_input_or_what_the_user_keeps(pair, tmp_path):
    folder(tmp_path / "after", pair[1], UNTIED)
    run("delta", tmp_path / "before", tmp_path / "after", "--output", tmp_path / "d.safetensors")
    shutil.copytree(tmp_path / "after", tmp_path / "mine")
    (tmp_path / "mine/notes.txt").write_text("a year's work")

    def everything():
        return {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    before, after, mine = (tmp_path / name for name in ("before", "after", "mine"))
    kept = everything()
    weights = "model.safetensors"
    for call in (
        ("apply", before, tmp_path / "d.safetensors", "--output", mine),
        ("apply", before, tmp_path / "d.safetensors", "--output", before),
        ("fetch", mine, "--output", mine),
        ("fetch", after, "--output", mine),
        ("convert", mine, "--output", mine),
        ("convert", after, "--output", mine),
        ("convert", after, "--output", after / "inside"),
        ("delta", before, after, "--output", after / weights),
        ("delta", before, after, "--output", mine / weights),
        ("measure", before, after, "--mask", before / weights),
        ("measure", before, after, "--table", mine / weights),
        ("measure", before, after, "--json", mine / "notes.txt"),
        ("measure", before, after, "--json", mine),
        ("rank", before, after, "--json", after / "config.json"),
        (
            "overlap",
            tmp_path / "d.safetensors",
            tmp_path / "d.safetensors",
            "--json",
            mine / weights,
        ),
    ):
        assert refused(*call).startswith(str(Path(call[-1])))
        assert everything() == kept
