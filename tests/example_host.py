"""Runs the trainers' examples, each rank in a process of its own, and writes down what their models saw.

One process imports torch and the trainers once and forks a child for every rank of every run: importing them again each
time would take most of the time. A line of JSON on stdin is a run, a line on stdout its exit codes.
"""

import functools
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any, TypedDict


class Run(TypedDict):
    """One run of an example."""

    script: str
    arguments: list[str]
    environments: list[dict[str, str]]
    """Of each rank."""
    logs: list[str]
    """Of each rank: what its model saw, one JSON list of blocks a line, and then what went wrong."""


def main() -> None:
    """Serve until stdin ends."""
    import accelerate  # noqa: F401 - the children need it
    import lightning  # noqa: F401
    import torchdata.stateful_dataloader  # noqa: F401
    from transformers import Trainer  # noqa: F401

    for line in sys.stdin:
        run: Run = json.loads(line)
        children = [_forked(run, rank) for rank in range(len(run["logs"]))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def _forked(run: Run, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    with Path(run["logs"][rank]).open("w", encoding="utf-8") as log:
        try:
            _work(run, rank, log)
            code = 0
        except BaseException:  # noqa: BLE001 - a child must not come back
            traceback.print_exc(file=log)
        log.flush()
        os._exit(code)


def _work(run: Run, rank: int, log: Any) -> None:
    """The script, as `python script arguments` would run it."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    @functools.wraps(forward)
    def logged(self: Any, *arguments: Any, **inputs: Any) -> Any:
        log.write(json.dumps(inputs["input_ids"].tolist()) + "\n")
        return forward(self, *arguments, **inputs)

    LlamaForCausalLM.forward = logged  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout is the parent's answer
    os.environ |= run["environments"][rank]
    sys.argv = [run["script"], *run["arguments"]]
    sys.path.insert(0, str(Path(run["script"]).parent))
    runpy.run_path(run["script"], run_name="__main__")


if __name__ == "__main__":
    main()
