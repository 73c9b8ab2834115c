"""A tiny model with a chat tokenizer, data for it, and runs of the real trainer; not a test."""

import dataclasses
import json
import os
import random
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch

from subnetworks.training.engine import masking
from subnetworks.training.runtime import online, run, state
from subnetworks.training.runtime.job import Job, distributed, environment
from subnetworks.training.runtime.preference import described
from subnetworks.training.settings import parse_accelerator, parse_settings


def make_init(folder, hidden_size=20):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = ["<pad>", "<|im_end|>", "<user>", "<assistant>", *"0123456789+=", "\u010a", "\u0120"]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(letters),
        # 20 is not a multiple of the ranks' part of every matrix: shards are uneven.
        hidden_size=hidden_size,
        intermediate_size=25,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        dtype="bfloat16",
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_pairs(folder):
    source = random.Random(0)
    rows = []
    for _ in range(12):
        a, b = source.randint(0, 9), source.randint(0, 99)
        prompt = [{"role": "user", "content": f"{a}+{b}="}]
        rows.append({"prompt": prompt, "chosen": str(a + b), "rejected": str(a + b + 1)})
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")


def make_problems(folder):
    """Sums of a digit with itself, ten to train on and three of them held out."""
    rows = [
        {
            "data_source": "tiny",
            "prompt": [{"role": "user", "content": f"{a}+{a}="}],
            "reward_model": {"style": "rule", "ground_truth": str(2 * a)},
        }
        for a in range(10)
    ]
    folder.mkdir()
    for name, some in (("train", rows), ("validation", rows[:3])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), folder / f"{name}.parquet")


def make_job(folder, name, settings, ranks=1, mask=None, resume=0, data=None, **machine):
    """A job on the folder's `init` and `data` (or `data`), with its state in the folder `name`."""
    place = folder / name
    place.mkdir(exist_ok=True)
    kept = settings.get("trajectory_every")
    return Job(
        settings=parse_settings(settings),
        machine=parse_accelerator({"kind": "cpu", "devices": ranks, **machine}),
        init=folder / "init",
        data=data or folder / "data",
        mask=mask,
        state=place,
        scratch=folder,
        steps_log=place / f"steps-{resume}.jsonl",
        resume=resume,
        shapes={},
        trajectory=place / "trajectory" if kept else None,
        base=masking.digest(folder / "init") if kept else "",
    )


def launch(folder, jobs):
    """Train preference jobs one after the other, in one start of the trainer's processes."""
    some = next(iter(jobs.values()))
    (folder / "jobs.json").write_text(
        json.dumps({name: described(job) for name, job in jobs.items()})
    )
    command = distributed(some, "engine_steps", str(folder))
    variables = os.environ | environment(some)
    variables["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def trained_by(monkeypatch, module, variables):
    """Lets on-policy runs be trained by a module that lies beside this one."""

    def command(job):
        made = online.command(job)
        *words, usual, file = made.arguments
        assert usual.endswith("online_main")
        paths = os.pathsep.join([made.environment["PYTHONPATH"], str(Path(__file__).parent)])
        return dataclasses.replace(
            made,
            arguments=[*words, module, file],
            environment=made.environment | {"PYTHONPATH": paths, **variables},
        )

    monkeypatch.setitem(run.TRAINERS, "online", command)


def saved_weights(folder):
    """The fp32 weights in a folder of a saved step, joined by torch from all ranks' shards."""
    import torch
    from torch.distributed.tensor import DTensor, Shard

    files = sorted(folder.glob("model_world_size_*_rank_*.pt"))
    ranks = [torch.load(file, map_location="cpu", weights_only=False) for file in files]

    def whole(name):
        first = ranks[0][name]
        if not isinstance(first, DTensor):
            return first
        parts = [rank[name].to_local() for rank in ranks]
        placement = first.placements[-1]
        return torch.cat(parts, dim=placement.dim) if isinstance(placement, Shard) else parts[0]

    return {name: whole(name) for name in ranks[0]}


def master_weights(folder, step, name):
    """The fp32 weights that a job saved after a step."""
    return saved_weights(state.shards(folder / name / f"global_step_{step}"))


def log(folder, name, attempt=0):
    """What a job logged at each step."""
    lines = (folder / name / f"steps-{attempt}.jsonl").read_text().splitlines()
    return [json.loads(line)["data"] for line in lines]
