"""How much memory a process has taken at its most."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Since the process began: what tensors held on a GPU, or all that was resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, all others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
