"""What vLLM finds in its environment wherever it is started: to serve, to train with, to sample."""

# It reports no use of it.
QUIET = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}

# On a CPU no thread is pinned to a core that may be busy. And vLLM compiles how it draws tokens for
# requests without a seed of their own; what torch 2.13 makes of that for AVX2 never draws some.
ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}


def leave_out_compiler() -> None:
    """Let this process, which may have imported torch already, compile nothing either."""
    import torch

    torch.compiler.set_stance("force_eager")
