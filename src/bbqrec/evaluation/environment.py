"""The circumstances of a measurement: versions and hardware, no names of hosts or folders."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bbqrec.products import is_mkl_slow


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a number that `device` made may depend on besides data, settings and seed."""
    is_cuda = torch.device(device).type == "cuda"
    return {
        "bbqrec": version("bbqrec"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "fp32_products": "oneDNN" if is_mkl_slow() else "as PyTorch",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cuda": torch.version.cuda,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
