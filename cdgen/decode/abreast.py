"""Models of one size at the same time, each in a thread with its share of the cores.

Two threads that work on one product must wait for each other some hundred times a step, and longer where a core
is busy with something else. Two models have nothing to wait for until their logits meet in the draw, and there
rows have nothing to do with each other. So where all models cost the same, each gets a thread of its own and
its share of torch's threads inside it; the draw's rows are split among the same threads. A product's sum may
change with that share, as with any number of threads: it is fixed by the threads of the job (design section 4).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

from cdgen.decode.llama import LlamaModel
from cdgen.decode.models import LanguageModel

Result = TypeVar("Result")


def threads_each(models: Sequence[LanguageModel]) -> int:
    """Torch threads for each of `models` side by side; 0: they run one after the other, with all threads.

    Side by side only what has nothing to wait for: models of the fast path on the CPU, of one size, and as many
    threads for each as for the others.
    """
    sizes = {
        model.num_weights if isinstance(model, LlamaModel) and model.device.type == "cpu" else 0
        for model in models
    }
    threads = torch.get_num_threads()
    if len(models) == 1 or len(sizes) > 1 or 0 in sizes or threads % len(models):
        return 0
    return threads // len(models)


class Abreast:
    """Threads of Python that share a step, each with `threads` of torch's.

    Args:
        count: of Python's threads.
        threads: of torch, for each.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count, self.threads = count, threads
        all_threads = torch.get_num_threads()
        # torch keeps the number per thread, and one for threads to come: that one is set back.
        begun = Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first call sets its number, over what was set before
            torch.set_num_threads(threads)
            begun.wait()

        self._pool = ThreadPoolExecutor(count, thread_name_prefix="model")
        waiting = [self._pool.submit(begin) for _ in range(count)]
        begun.wait()
        for found in waiting:
            found.result()
        torch.set_num_threads(all_threads)

    def shares(self, rows: int) -> list[slice]:
        """Rows split as evenly as they can be; fewer shares where rows are few."""
        edges = [rows * i // self.count for i in range(self.count + 1)]
        return [slice(a, b) for a, b in pairwise(edges) if a < b]

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the calls return, in their order; the first error where one fails, after all have ended."""
        futures = [self._pool.submit(call) for call in calls]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]
