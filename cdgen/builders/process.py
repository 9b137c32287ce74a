"""Settings of the whole process, made by the command line before heavy work. A library user makes their own."""

import ctypes
import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_YOUNG = 20_000


def prepare_process() -> None:
    """Quieten libraries that talk, let waiting threads sleep, let memory be looked through and returned less often.

    To be called before torch is imported. Nothing here can change a number.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # A thread that waits for another one soon sleeps: spinning takes the very core that the other one needs.
    # Measured on two busy cores, training the quickstart's model: 5.6k tokens/s instead of 0.75k. On idle ones it costs
    # something: 14.6k instead of 16.8k at a spin count of 5,000 (docs/results/quickstart.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Importing torch and transformers makes 700,000 objects that stay, and Python goes through the young ones whenever
    # there are 700 more. Measured, a build of a small recipe: 14.0 s of the processor instead of 16.4.
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    _keep_large_buffers()


def _keep_large_buffers() -> None:
    """Stop glibc from returning every large tensor to the system and faulting it in again, page by page.

    Measured on two cores: training steps of a small model take two thirds of the time, the same numbers.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
