"""Models that run in this process: vLLM's engine, and transformers where there is no vLLM."""

import hashlib
from pathlib import Path
from typing import Any

from subnetworks.checkpoints.manifest import trusts
from subnetworks.evaluation import engine
from subnetworks.evaluation.keeping import Generated, Keeping
from subnetworks.evaluation.machine import Machine


def vllm_model(checkpoint: Path, machine: Machine, context: int) -> Any:
    """lm-eval's model over vLLM's engine in this process; `engine.environment` is set already."""
    from lm_eval.models.vllm_causallms import VLLM

    class EngineModel(Keeping, VLLM):
        chunk = 4 * machine.sequences

        def _model_generate(self, *arguments: Any, **settings: Any) -> Any:
            outputs = super()._model_generate(*arguments, **settings)
            for output in outputs if settings.get("generate") else ():
                answer = output.outputs[0]
                answer.text = Generated(answer.text, answer.finish_reason == "length")
            return outputs

    # With a batch of its own choosing lm-eval has vLLM draw a bar that cannot be turned off.
    return EngineModel(
        pretrained=str(checkpoint),
        trust_remote_code=trusts(checkpoint),
        batch_size=EngineModel.chunk,
        **engine.options(machine, context),
    )


def hf_model(checkpoint: Path, machine: Machine, context: int) -> Any:
    """lm-eval's model over transformers.

    `batch_size` prompts run side by side, of similar length and padded. Log-probabilities are
    taken in float32, as vLLM's are.
    """
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    batch, cuda = machine.batch_size, machine.kind == "cuda"
    if not cuda:
        torch.set_num_threads(machine.threads)

    class TransformersModel(Keeping, HFLM):
        chunk = 16 * batch
        room = 0  # tokens of the longest answer

        def _model_generate(self, context: Any, *arguments: Any, **settings: Any) -> Any:
            seed = settings.pop("seed", None)
            if settings.get("do_sample"):
                settings |= {"top_k": 0, "top_p": 1.0}
            if seed is not None:
                # transformers draws a batch from one generator: seeded by what is asked.
                asked = hashlib.sha256(f"{seed} {context.tolist()}".encode()).digest()
                torch.manual_seed(int.from_bytes(asked[:8], "big", signed=True))
            self.room = settings["max_length"] - context.shape[1]
            return super()._model_generate(context, *arguments, **settings)

        def tok_decode(self, tokens: Any, *arguments: Any, **settings: Any) -> str:
            text = super().tok_decode(tokens, *arguments, **settings)
            if not isinstance(tokens, list) or not tokens:
                return text
            ends = self.model.generation_config.eos_token_id
            ends = {self.tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
            return Generated(text, len(tokens) >= self.room and tokens[-1] not in ends)

    model = TransformersModel(
        pretrained=str(checkpoint),
        trust_remote_code=trusts(checkpoint),
        dtype=machine.dtype,
        device="cuda" if cuda else "cpu",
        parallelize=cuda and machine.devices > 1,
        max_length=context,
        batch_size=batch,
        softmax_dtype="float32",
    )
    # A checkpoint may ask for its own decoding (penalties, beams, a length): not in a test.
    own = model.model.generation_config
    ends = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.model.generation_config = GenerationConfig(**ends)
    return model
