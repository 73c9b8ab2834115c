"""A CPU as a platform of verl, without a change to verl.

verl imports this package (VERL_USE_EXTERNAL_MODULES) and selects it (VERL_PLATFORM=cpu). What verl
asks of an accelerator's device module is answered with torch.cpu and harmless substitutes; Ray's
logical resource "GPU" means one worker process.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _zero(*_: Any, **__: Any) -> int:
    return 0


class _CpuDevice(types.ModuleType):
    """torch.cpu with the functions of torch.cuda that verl calls."""

    empty_cache = ipc_collect = synchronize = set_device = staticmethod(_nothing)
    reset_peak_memory_stats = set_per_process_memory_fraction = staticmethod(_nothing)
    memory_allocated = memory_reserved = staticmethod(_zero)
    max_memory_allocated = max_memory_reserved = staticmethod(_zero)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        """Free and total memory in bytes."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def is_available(self) -> bool:
        """A CPU is always there."""
        return True

    def device_count(self) -> int:
        """One device a process."""
        return 1

    def current_device(self) -> str:
        """verl moves tensors with `.to(current_device())`: an index would mean a GPU."""
        return "cpu"

    def get_device_name(self, *_: Any) -> str:
        """The device's name."""
        return "cpu"

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        """State of the generator of random numbers."""
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        """Restore the generator of random numbers."""
        torch.set_rng_state(state)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


_DEVICE = _CpuDevice("subnetworks.training.engine.platform_cpu.device")


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """verl's view of a CPU."""

    device_name = property(lambda self: "cpu")  # type: ignore[assignment]
    vendor_name = property(lambda self: "cpu")  # type: ignore[assignment]
    device_module = property(lambda self: _DEVICE)  # type: ignore[assignment]

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing runs asynchronously."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """There is no allocator to set."""

    def empty_cache(self) -> None:
        """There is no cache."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """There is no profiler."""

    def profiler_stop(self) -> None:
        """There is no profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights reach vLLM through POSIX shared memory

    def cudart(self) -> None:
        return None


_init_process_group = torch.distributed.init_process_group


def _init_gloo(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
    """verl names both its devices, `cpu:gloo,cpu:gloo`; torch refuses the same device twice."""
    if backend is not None and set(backend.replace(" ", "").split(",")) == {"cpu:gloo"}:
        backend = "gloo"
    return _init_process_group(backend, *args, **kwargs)


torch.distributed.init_process_group = _init_gloo
