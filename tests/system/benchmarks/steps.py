"""Weigh and time whole training steps within masks, beside those of full training.

The project's own trainer takes them: steps of SimPO, which are DPO's without the init's scores. One
process trains a model in full and one within each mask, in turns, so that a busy machine slows all
alike; what counts are the ratios of processor seconds. Bytes are those of the tensors that are
there; activations are what autograd keeps from the forward pass to the backward one; the peak is
the most that torch's allocator held in a step. Below them is what is reckoned on paper
(`subnetworks.experiment.savings` and `estimates`). Needs the training environment; `--model
smollm2` needs 8 GB and a few minutes, or one density at a time.
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "src"))

from subnetworks.core import processor  # noqa: E402
from subnetworks.experiment import estimates, savings  # noqa: E402
from subnetworks.experiment.models import Size  # noqa: E402
from subnetworks.training.runtime import finish  # noqa: E402
from subnetworks.training.runtime.job import Job, environment  # noqa: E402
from subnetworks.training.settings import parse_accelerator, parse_settings  # noqa: E402

DENSITIES = (0.01, 0.05, 0.2, 0.5)
PHASES = ("forward", "backward", "optimiser")
# Pairs of a step, all of which go through the model at once; tokens of a sequence.
BATCHES = {"tiny": (2, 16), "mini": (32, 32), "smollm2": (1, 128)}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def make_init(folder, name):
    """Random weights in the layout of mini's model or SmolLM2-135M's, with mini's tokenizer."""
    import torch
    import transformers

    from subnetworks.mini import base, settings, tokenizer

    torch.manual_seed(0)
    tokens = tokenizer.build()
    if name == "smollm2":
        config = transformers.LlamaConfig(
            **SMOLLM2,
            bos_token_id=None,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        sizes = {"width": 64, "layers": 2} if name == "tiny" else {}
        model = base.architecture(tokens, settings.BaseSettings(**sizes))
    base.save(model, tokens, folder / "init")


def make_data(folder, pairs, length):
    """Pairs of answers of random digits, each digit a token; all sequences of one length."""
    import pyarrow
    import pyarrow.parquet

    source = random.Random(0)
    beside = len("1+1=") + 3  # two roles and the end

    def answer():
        return "".join(source.choices("0123456789", k=length - beside))

    prompt = [{"role": "user", "content": "1+1="}]
    rows = [{"prompt": prompt, "chosen": answer(), "rejected": answer()} for _ in range(pairs)]
    (folder / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train.parquet")


def make_mask(folder, shapes, density):
    """Draw each entry alike; the file, the share drawn, that of the matrices' entries in a row with
    one of them, and this as `savings.rows_needed` expects it."""
    import numpy

    from subnetworks.measuring import masks

    file = folder / f"mask_{density}.safetensors"
    source = numpy.random.default_rng(0)
    drawn = {name: source.random(shape, numpy.float32) < density for name, shape in shapes.items()}
    masks.write(file, drawn, rule="random")
    inside = sum(int(array.sum()) for array in drawn.values())
    matrices = [array for array in drawn.values() if array.ndim == 2]
    touched = sum(int(array.any(1).sum()) * array.shape[1] for array in matrices)
    expected = sum(array.size * savings.rows_needed(density, array.shape[1]) for array in matrices)
    entries = sum(array.size for array in matrices)
    return {
        "file": str(file),
        "density": inside / sum(map(math.prod, shapes.values())),
        "rows": touched / entries,
        "expected": expected / entries,
    }


def make_job(folder, arguments, mask=None):
    pairs, length = BATCHES[arguments.model]
    settings = {
        "algorithm": "simpo",
        "steps": 1000,
        "batch_size": pairs,
        "micro_batch_size": 2 * pairs,
        "learning_rate": 1e-6,
        "max_length": length,
    }
    return Job(
        settings=parse_settings(settings),
        machine=parse_accelerator({"kind": "cpu", "bfloat16": arguments.bfloat16}),
        init=folder / "init",
        data=folder / "data",
        mask=mask,
        state=folder,
        scratch=folder,
        steps_log=folder / "steps.jsonl",
        resume=0,
        shapes={},
    )


SECONDS = dict.fromkeys((*PHASES, "step"), 0.0)


def timed(owner, method, phase):
    """Have the seconds of a method added to those of a phase, and a profiler see it by its name."""
    import torch

    call = getattr(owner, method)

    @functools.wraps(call)
    def wrapped(*given, **named):
        with torch.profiler.record_function(phase):
            begin = time.process_time()
            found = call(*given, **named)
            SECONDS[phase] += time.process_time() - begin
        return found

    setattr(owner, method, wrapped)


class Steps:
    """A job's trainer, which takes the same step again and again."""

    def __init__(self, job):
        from subnetworks.training.objectives import preferences
        from subnetworks.training.runtime.preference import Trainer, described

        self.trainer = trainer = Trainer(described(job))
        trainer.worker.set_loss_fn(functools.partial(preferences.loss, settings=trainer.settings))
        self.rows = range(len(trainer.data.rows))
        self.sequences = [one for row in self.rows for one in trainer.data.rows[row]]
        self.shared = trainer.shared(trainer.data, self.rows, 0)
        self.engine = trainer.worker.engine
        timed(self.engine, "forward_step", "forward")
        timed(self.engine, "optimizer_step", "optimiser")

    @property
    def tokens(self):
        return sum(len(ids) for ids, _ in self.sequences)

    def take(self):
        """One step; returns its seconds, in all and by phase."""
        trainer = self.trainer
        batch = trainer.scorer.batch(self.sequences)
        trainer.complete(batch, trainer.data, self.rows, 0, self.rows, self.shared)
        SECONDS.update(dict.fromkeys(SECONDS, 0.0))
        begin = time.process_time()
        trainer.worker.train_batch(batch)
        return SECONDS | {"step": time.process_time() - begin}

    def kept(self):
        """Bytes of what is there when the optimiser has taken its step."""
        import torch

        from subnetworks.training.engine.adamw import local

        optimiser, step, found = self.engine.optimizer, self.engine.optimizer_step, {}

        def weighed():
            norm = step()
            weights = list(self.engine.module.parameters())
            indices = getattr(optimiser, "_indices", {}).values()
            states = [value for state in optimiser.state.values() for value in state.values()]
            for part, tensors in {
                "weights": weights,
                "gradients": [weight.grad for weight in weights],
                "moments": [value for value in states if isinstance(value, torch.Tensor)],
                "indices": [one for one in indices if one is not None],
            }.items():
                found[part] = of_storages(map(local, tensors))
            return norm

        self.engine.optimizer_step = weighed
        self.take()
        self.engine.optimizer_step = step
        return found

    def activations(self):
        """Bytes of what autograd keeps of a step, less the weights."""
        import torch

        module, saved = self.engine.module, []

        def keep(tensor):
            storages = {parameter.untyped_storage().data_ptr() for parameter in parameters(module)}
            values = (tensor._values if tensor.is_nested else tensor).detach()
            if values.untyped_storage().data_ptr() not in storages:
                saved.append(values)
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.take()
        return of_storages(saved)

    def peak(self):
        """The most bytes that each phase of a step adds to what was there before the step."""
        import torch

        with torch.autograd.profiler.profile(profile_memory=True) as profiler:
            self.take()
        events = sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns())
        ends = {e.name(): (e.start_ns(), e.end_ns()) for e in events if e.name() in PHASES}
        held, most = 0, dict.fromkeys(PHASES, 0)
        for event in events:
            if event.name() == "[memory]":
                held += event.nbytes()
                for phase, (begin, end) in ends.items():
                    if begin <= event.start_ns() <= end:
                        most[phase] = max(most[phase], held)
        return most


def parameters(module):
    """Those that are whole just now: a sharded one has no storage of its own."""
    from torch.distributed.tensor import DTensor

    return [one for one in module.parameters() if not isinstance(one, DTensor)]


def of_storages(tensors):
    """Bytes of all storages of some tensors, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(arguments):
    """Train in full and within each mask, in turns, and write what was found; run as a process."""
    import torch
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

    folder = Path(arguments.folder)
    initialize_global_process_group()
    timed(torch.Tensor, "backward", "backward")
    masks = [None, *(Path(mask["file"]) for mask in json.loads((folder / MASKS).read_text()))]
    trained = [Steps(make_job(folder, arguments, mask)) for mask in masks]
    for steps in trained:
        steps.take()
    rounds = [[steps.take() for steps in trained] for _ in range(arguments.rounds)]
    found = [
        {
            "tokens": steps.tokens,
            "seconds": seconds,
            "bytes": steps.kept() | {"activations": steps.activations()},
            "peak": steps.peak(),
        }
        for steps, seconds in zip(trained, zip(*rounds, strict=True), strict=True)
    ]
    (folder / FOUND).write_text(json.dumps(found))
    destroy_global_process_group()


MASKS, FOUND = "masks.json", "found.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[*BATCHES], default="mini")
    parser.add_argument("--density", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bfloat16", choices=["auto", "native", "emulated"], default="auto")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        return measure(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_init(folder, arguments.model)
        make_data(folder, *BATCHES[arguments.model])
        shapes = finish.shapes(folder / "init")
        masks = [make_mask(folder, shapes, density) for density in arguments.density]
        (folder / MASKS).write_text(json.dumps(masks))
        job = make_job(folder, arguments)
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--folder", temporary],
            env=os.environ | environment(job),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        found = json.loads((folder / FOUND).read_text())
        config = json.loads((folder / "init" / "config.json").read_text())
    size = Size(
        weights=sum(map(math.prod, shapes.values())),
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        vocabulary=config["vocab_size"],
    )
    how = job.arithmetic
    print(f"{processor.name()}, 1 thread; weights in {how.weights}, products in {how.products}")
    print(f"{size.weights:,.0f} weights, {found[0]['tokens']} tokens a step, MB; on paper below")
    number = estimates.FLOAT32 if how.products == "float32" else estimates.BFLOAT16
    for line in memory(size, number, masks, found):
        print(("{:9}" + "{:>12}" * (len(line) - 1)).format(*line))
    print("processor time of a step, full in ms, masked : full")
    for line in times(masks, found):
        print(("{:9}" + "{:>12}" * (len(line) - 1)).format(*line))
    for mask in masks:
        print(
            f"of the matrices' entries {mask['rows']:.2%} are in rows that a mask of "
            f"{mask['density']:.1%} has an entry in, {mask['expected']:.2%} on paper"
        )


def memory(size, number, masks, found):
    """Lines of a table: bytes measured in full and within each mask, each above those on paper."""
    parts = ("weights", "gradients", "moments", "indices")
    yield "mask", *parts, "activations", "peak"
    for mask, one in zip([None, *masks], found, strict=True):
        held = one["bytes"]
        # Gradients are there in the step alone, so that its peak has them.
        peak = sum(held[part] for part in parts if part != "gradients") + max(one["peak"].values())
        paper = savings.parts(size.weights, mask and mask["density"])
        activations = estimates.activations(size, one["tokens"], again=False, number=number)
        for label, sizes in (
            (f"{mask['density']:.1%}" if mask else "none", [*held.values(), peak]),
            ("", [*(getattr(paper, part) for part in parts), activations, paper.sum + activations]),
        ):
            yield label, *(f"{bytes_ / 1e6:,.2f}" for bytes_ in sizes)


def times(masks, found):
    """Lines of a table: seconds of full training's phases, and the masked ones' ratios to them."""
    yield "mask", *(phases := (*PHASES, "step"))
    full = found[0]["seconds"]
    medians = [statistics.median(turn[phase] for turn in full) for phase in phases]
    yield "none", *(f"{1e3 * median:.1f}" for median in medians)
    for mask, one in zip(masks, found[1:], strict=True):
        turns = list(zip(one["seconds"], full, strict=True))
        ratios = [statistics.median(m[phase] / f[phase] for m, f in turns) for phase in phases]
        yield f"{mask['density']:.1%}", *(f"{ratio:.2f}" for ratio in ratios)


if __name__ == "__main__":
    main()
