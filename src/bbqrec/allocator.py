"""Memory of the process: keep freed pages instead of returning them to the kernel.

A training step frees and maps again the same large tensors; each fresh page costs a fault. The
price is memory: the process stays as large as its largest step made it.

oneDNN keeps compiled kernels and their buffers for each of the last 1,024 shapes it met. Batches
of real lengths have a new shape at nearly every step, so that a run would grow by gigabytes for
kernels that never come again.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
NUM_KEPT_KERNELS = 64  # a search asks for two dozen, a training step for three, over and over


def keep_heap() -> bool:
    """Call before any tensor is made. Bounds oneDNN's cache, and asks glibc to serve large
    tensors from a heap it keeps; False where there is no glibc."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(NUM_KEPT_KERNELS))
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)
