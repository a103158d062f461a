"""How much memory a call takes, read from what Linux counts of this process."""

import ctypes
import gc
import math
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def working_mb(run: Callable[[], object]) -> float:
    """The most megabytes that were resident during `run` beyond those that were before it.

    Memory that Python and the allocator keep free is given back first, so that what the call
    takes counts in full. Not a number where the system does not say.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        RESET.write_text("5")  # forget the peak so far
    except (OSError, AttributeError):
        run()
        return math.nan
    before = _mb("VmRSS")
    run()
    return max(0.0, _mb("VmHWM") - before)


def held_mb(build: Callable[[], object]) -> tuple[object, float]:
    """What `build` returns, and by how many megabytes the process has grown with it."""
    gc.collect()
    before = _mb("VmRSS")
    built = build()
    return built, _mb("VmRSS") - before


def _mb(name: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"{STATUS} has no line {name}")
