"""Settings of the whole process, made by the command line before heavy work. A library user makes their own."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def prepare_process() -> None:
    """Quieten libraries that talk, and let the allocator keep large buffers."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
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
