"""verl's FSDP engine, able to train within a mask.

`external_lib` makes verl import this module in every training process; it registers the engine for
the vendor "subnetworks" (VERL_ENGINE_VENDOR), on CPU and CUDA alike. The settings come through
`optim.override_optimizer_config["subnetworks"]`.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import verl.utils.tensordict_utils as tensordict_utils
import verl.workers.engine.fsdp.transformer_impl as fsdp
import verl.workers.rollout.base as rollouts
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LambdaLR
from verl.workers.engine.base import EngineRegistry

from subnetworks.core.schedule import factor
from subnetworks.measuring.masks import Mask
from subnetworks.training.engine.adamw import FORMS, CompactAdamW, DenseAdamW, Inside, local
from subnetworks.training.engine.bfloat16 import ROUNDING, StochasticAdamW
from subnetworks.training.engine.gradients import Moments
from subnetworks.training.engine.log_probabilities import entropies, log_probabilities
from subnetworks.training.engine.value_head import ValueHeadMixin
from subnetworks.training.runtime import trajectory

VENDOR = "subnetworks"
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
# The policy's folder of a saved step.
_STEP = re.compile(r"/global_step_(\d+)(?:/actor)?/?$")
# What verl's value models have on top: transformers' token classifiers, and trl's.
_VALUE_HEADS = ("score.", "classifier.", "v_head.")


def _asked(micro_batch: Any, key: str, default: bool = False) -> bool:
    return bool(tensordict_utils.get_non_tensor_data(micro_batch, key, default))


def _plain(output_args: Any, micro_batch: Any) -> bool:
    """Whether only log-probabilities at temperature 1 are wanted, with their entropies where
    nothing is learnt."""
    entropy_learnt = _asked(micro_batch, "calculate_entropy") and torch.is_grad_enabled()
    others = ("use_fused_kernels", "calculate_sum_pi_squared", "distillation_use_topk")
    return (
        bool(output_args.get("temperature_is_one"))
        and not entropy_learnt
        and not any(_asked(micro_batch, key) for key in (*others, "distillation_only"))
    )


class MaskedEngineMixin:
    """Trains within the mask that its optimiser's section names, or whole where it names none.

    Nothing outside the mask moves (`subnetworks.training.engine.adamw`). The optimiser is AdamW.
    Where the section asks for gradients, they are summed, no step is taken and nothing is saved.
    """

    _moments: Moments | None = None

    def _build_module(self) -> torch.nn.Module:
        module: torch.nn.Module = super()._build_module()
        # A reference policy's optimiser section is none of ours.
        trained = not self.engine_config.forward_only
        if trained and _own(self.optimizer_config).get("master_weights", "float32") != "float32":
            # Not the whole module, as verl's model_dtype would: its buffers stay as they are,
            # whose rounding would turn the model's positions.
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16()
        return module

    def _build_lora_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """verl's, whose adapters are drawn from the model's section's seed if it has one."""
        seed = self.model_config.lora.get("seed")
        if seed is None:
            return super()._build_lora_module(module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return super()._build_lora_module(module)

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        given = self.optimizer_config
        others = dict(given.override_optimizer_config or {})
        own = dict(others.pop("subnetworks", None) or {})
        if own.get("gradients"):
            self._moments = Moments(_named(module), own["gradients"])
        rounding = ROUNDING.get(own.get("master_weights", "float32"))
        if own.get("mask") or rounding:
            what = "training within a mask" if own.get("mask") else "master_weights"
            if self.engine_config.strategy != "fsdp2":
                raise ValueError(f"{what} needs strategy fsdp2")
            if (given.optimizer_impl, given.optimizer) != ("torch.optim", "AdamW"):
                raise ValueError(f"{what} needs torch.optim's AdamW")
            if rounding is StochasticAdamW:
                others["seed"] = own["seed"]
            inside: Inside = (
                _sharded_masks(module, own["mask"])
                if own.get("mask")
                else ((parameter, None) for parameter in module.parameters())
            )
            return (rounding or FORMS[own.get("optimiser_state", "compact")])(
                module.parameters(),
                inside,
                lr=given.lr,
                betas=tuple(given.betas),
                weight_decay=given.weight_decay,
                **others,
            )
        self.optimizer_config = dataclasses.replace(given, override_optimizer_config=others or None)
        try:
            return super()._build_optimizer(module)
        finally:
            self.optimizer_config = given

    def _build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        own = _own(self.optimizer_config)
        schedule, warmup = own.get("schedule", "constant"), own.get("warmup_steps", 0)
        steps = self.optimizer_config.total_training_steps
        return LambdaLR(optimizer, lambda step: factor(step, steps, warmup, schedule))

    def forward_backward_batch(self, *args: Any, **kwargs: Any) -> Any:
        """verl's, on the weights as the run's arithmetic sees them."""
        with self._rounded():
            return super().forward_backward_batch(*args, **kwargs)

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        """Meanwhile the float32 weights are those nearest in what the run sees them in.

        A no-op where the engine computes in that, for it rounds them to the same, and where they
        are kept in it. The gradients stay: those of the rounded weights, as in mixed precision.
        """
        dtype = self._weights_dtype
        if dtype in (self._autocast_dtype, next(self.module.parameters()).dtype):
            yield
            return
        parts = [local(parameter.detach()) for parameter in self.module.parameters()]
        kept = [(part, part.clone()) for part in parts]
        with torch.no_grad():
            for part, _ in kept:
                part.copy_(part.to(dtype))
        try:
            yield
        finally:
            with torch.no_grad():
                for part, master in kept:
                    part.copy_(master)

    @property
    def _weights_dtype(self) -> torch.dtype:
        """What the forward pass sees the weights rounded to."""
        return getattr(torch, (self.engine_config.mixed_precision or {}).get("weights", "bfloat16"))

    def get_per_tensor_param(self, **kwargs: Any) -> Any:
        """The weights for the sampler: whole tensors by name, rounded as the trainer sees them.

        A tied tensor goes by its first name alone. vLLM takes it for all of them, and refuses
        another name of it that arrives apart from the first, in a later part of a large model.
        """
        weights, adapter = super().get_per_tensor_param(**kwargs)
        dtype = self._weights_dtype
        tied = {_unwrapped(name) for name in _further_names(self.module)}
        return ((name, tensor.to(dtype)) for name, tensor in weights if name not in tied), adapter

    def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, Tensor]]:
        """The same with the adapters merged, float32: verl's would round to bf16 whatever the run
        computes in, and change the module meanwhile."""
        model_type = self.model_config.hf_config.model_type
        try:
            yield from fsdp.unfuse_moe_params(_merged(self.module), model_type)
        finally:
            if self._is_offload_param:
                fsdp.offload_fsdp_model_to_cpu(self.module)

    def prepare_model_outputs(
        self, output: Any, output_args: Any, micro_batch: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Log-probabilities in float32: in bfloat16 they, and with them the logged loss and a
        preference's margin, would have three digits."""
        logits = getattr(output, "logits", None)
        has_values = isinstance(self, ValueHeadMixin)
        if logits is None or has_values or not _plain(output_args, micro_batch):
            if logits is not None:
                output.logits = logits.float()
            return super().prepare_model_outputs(output, output_args, micro_batch, *args, **kwargs)
        offsets = micro_batch["input_ids"].offsets()
        flat = logits.flatten(0, 1)
        rows = torch.arange(len(flat), device=logits.device)
        packed = _asked(micro_batch, "use_remove_padding", True)
        if not packed:
            within = torch.arange(logits.shape[1], device=logits.device) < offsets.diff()[:, None]
            rows = rows[within.flatten()]
        found = {"log_probs": log_probabilities(flat, rows, output_args["input_ids_rmpad_rolled"])}
        if _asked(micro_batch, "calculate_entropy"):
            found["entropy"] = entropies(flat, rows)
        if packed:  # a device's share, at whose end there may be padding
            pad = output_args["pad_size"]
            found = {n: self._gather_and_unpad_packed(some, pad) for n, some in found.items()}
        return {
            name: torch.nested.nested_tensor_from_jagged(values, offsets)
            for name, values in found.items()
        }

    def lr_scheduler_step(self) -> float:
        """Go on to the next step's learning rate; gives the one this step took."""
        taken = self.optimizer.param_groups[0]["lr"]
        super().lr_scheduler_step()
        return taken

    def optimizer_step(self) -> float:
        """One step of AdamW inside the mask; gives the norm of the masked gradient."""
        if self._moments:
            return self._moments.add()
        if isinstance(self.optimizer, DenseAdamW | CompactAdamW):
            self.optimizer.mask_gradients()
        return super().optimizer_step()

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """Save as verl does; then, if it is a step of the trajectory, write its delta.

        Before training goes on, so that no later save removes what is read here.
        """
        if self._moments:
            return
        super().save_checkpoint(local_path, *args, **kwargs)
        asked = _own(self.optimizer_config).get("trajectory")
        saved = Path(local_path)
        # A critic or a reward model beside the policy is saved under a name of its own.
        if not asked or not (step := _STEP.search(str(saved))):
            return
        number = int(step[1])
        if number % asked["every"] == 0:
            if not torch.distributed.get_rank():
                trajectory.write(
                    saved, Path(asked["init"]), Path(asked["folder"]), number, asked["base"]
                )
            torch.distributed.barrier()


def _own(config: Any) -> dict[str, Any]:
    """What the optimiser's section has for this engine."""
    return dict(((config and config.override_optimizer_config) or {}).get("subnetworks") or {})


def _further_names(module: torch.nn.Module) -> set[str]:
    """All names of tied parameters but the first of each."""
    every = {name for name, _ in _named(module, remove_duplicate=False)}
    return every - {name for name, _ in _named(module)}


def _named(
    module: torch.nn.Module, remove_duplicate: bool = True
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Each parameter by its name in checkpoints; a tied one once, or by all its names."""
    for name, parameter in module.named_parameters(remove_duplicate=remove_duplicate):
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        yield name, parameter


def _unwrapped(name: str) -> str:
    """A parameter's name without what peft adds to it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


@torch.no_grad()
def _merged(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors by name, W + s·B·A where there are adapters; one at a time, by all ranks."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    parts = {
        _unwrapped(name): (tensor, layers.get(name.removesuffix(".base_layer.weight")))
        for name, tensor in module.state_dict().items()
        if ".lora_" not in name
    }
    for name, (tensor, layer) in fsdp.convert_weight_keys(parts, module).items():
        merged = _whole(tensor)
        if layer is not None:
            a, b = (_whole(side["default"].weight) for side in (layer.lora_A, layer.lora_B))
            change = layer.scaling["default"] * (b @ a)
            merged = merged + (change.T if layer.fan_in_fan_out else change)
        yield name, merged


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this rank may have a part."""
    if isinstance(tensor, DTensor):
        return tensor.to(fsdp.get_device_id()).full_tensor()
    return tensor


def _sharded_masks(
    module: torch.nn.Module, path: str
) -> Iterable[tuple[torch.nn.Parameter, Tensor | None]]:
    """Each parameter with this rank's part of its mask (bool, the parameter's device).

    None, which is no mask, for the head of a value model: no language model has its like.
    """
    mask = Mask.open(path)
    known = set(mask.names)
    inside = total = 0
    for name, parameter in _named(module):
        if name.startswith(_VALUE_HEADS):
            yield parameter, None
            continue
        if name not in known or tuple(mask.shape(name)) != tuple(parameter.shape):
            raise ValueError(f"{path}: no mask of shape {tuple(parameter.shape)} for {name}")
        bits = torch.from_numpy(mask.array(name)).to(parameter.device)
        inside += int(bits.sum())
        total += bits.numel()
        if isinstance(parameter, DTensor):
            # Every rank reads the same file, so nothing is sent.
            bits = distribute_tensor(
                bits, parameter.device_mesh, parameter.placements, src_data_rank=None
            ).to_local()
        yield parameter, bits
    print(f"training within {path}: {inside} of {total} entries", flush=True)


def _register() -> None:
    for kind, bases in (
        ("language_model", (fsdp.FSDPEngineWithLMHead,)),
        ("value_model", (ValueHeadMixin, fsdp.FSDPEngineWithValueHead)),
    ):
        engine = type(f"Masked{bases[-1].__name__}", (MaskedEngineMixin, *bases), {})
        EngineRegistry.register(kind, ["fsdp", "fsdp2"], ["cuda", "cpu"], VENDOR)(engine)
    rollouts._ROLLOUT_REGISTRY["vllm", "async"] = (
        "subnetworks.training.rollout.weights.ServerAdapter"
    )
    if os.environ.get("VERL_PLATFORM") == "cpu":
        sender = "subnetworks.training.engine.platform_cpu.weights.WeightSender"
        rollouts._ROLLOUT_REGISTRY["vllm", "async"] = sender
        # verl keeps the reference policy in pinned memory, which needs an accelerator.
        offload = fsdp.CPUOffloadPolicy
        fsdp.CPUOffloadPolicy = lambda pin_memory=True: offload(pin_memory=False)


_register()
