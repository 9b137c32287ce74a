"""A model divided over two CPU processes: one process's tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decode.tiny_models import VOCAB, config_of, decode_part, general, llama, random_model, rule_of

from cdgen.decode import parallel, reference
from cdgen.decode.engine import Engine
from cdgen.errors import UsageError

PREFIX_TOKENS, NEW_TOKENS, COMPLETIONS = 5, 10, 2
SCORE_ERROR = 1e-4

_PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
from cdgen.decode.engine import Engine
from cdgen.decode.models import open_model
from cdgen.decode.parallel import open_parallel
from cdgen.recipes.schema import Decode

torch.set_num_threads(1)
folder = Path(sys.argv[1])
dtypes = {"weights_dtype": "float32", "cache_dtype": "float32"}
expert = open_parallel(folder / "expert", **dtypes)
given = np.load(folder / "given.npz")
said = {"path": expert.path}
for name, open_amateur in (("divided", open_parallel), ("whole", open_model)):
    amateur = open_amateur(folder / "amateur", **dtypes)
    engine = Engine(expert, amateur, Decode(), new_tokens=given["uniform"].shape[1])
    said[name] = engine.decode(given["prefix"], given["uniform"]).ids_BT.tolist()
    said["heads"] = engine._memory.states[0].layers[0].key_buffer.shape[1]
(folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(said))
dist.barrier()
dist.destroy_process_group()
"""


def torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "program.py"
    script.write_text(_PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama(1).save_pretrained(tmp_path / "expert")
    llama(2, sharpness=3.0).save_pretrained(tmp_path / "amateur")
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "given.npz",
        prefix=random.integers(0, VOCAB, (3, PREFIX_TOKENS)),
        uniform=random.random((3 * COMPLETIONS, NEW_TOKENS)),
    )
    return tmp_path


def test_two_processes_draw_the_tokens_of_one(folder: Path) -> None:
    """Against the reference, up to CDF boundaries; both ranks say the same, and each holds half the heads.

    With the amateur divided as well, and whole on each rank.
    """
    done = torchrun(folder)

    assert done.returncode == 0, done.stderr[-3000:]
    said: list[dict[str, Any]] = [
        json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)
    ]
    assert said[0] == said[1]
    assert said[0]["heads"] == 1  # of two key-value heads
    assert "divided over 2 processes" in said[0]["path"]
    given = np.load(folder / "given.npz")
    ids_BT = np.array(said[0]["divided"])
    assert said[0]["whole"] == said[0]["divided"]
    rows_BT = np.concatenate([given["prefix"].repeat(COMPLETIONS, axis=0), ids_BT], axis=1)
    replay = reference.replay(
        llama(1), llama(2, sharpness=3.0), rows_BT, prefix_tokens=PREFIX_TOKENS, rule=rule_of()
    )
    begin, end = reference.cdf_interval(replay.score_BTV, torch.from_numpy(ids_BT))
    uniform_BT = torch.from_numpy(given["uniform"])
    assert (uniform_BT >= begin - SCORE_ERROR).all() and (uniform_BT < end + SCORE_ERROR).all()
    engine = Engine(
        general(llama(1)), general(llama(2, sharpness=3.0)), decode_part(), new_tokens=NEW_TOKENS
    )
    one = engine.decode(given["prefix"], given["uniform"]).ids_BT
    assert np.array_equal(ids_BT, one)  # none of these uniforms lies at a boundary


def test_without_torchrun_it_says_how_to_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="torchrun --nproc-per-node"):
        parallel.open_parallel(folder / "expert", weights_dtype="float32", cache_dtype="float32")


@pytest.mark.parametrize(
    ("architecture", "ranks", "message"),
    [("llama", "3", "cannot be divided over 3"), ("gpt2", "2", "no tensor-parallel plan")],
)
def test_what_cannot_be_divided_is_refused(
    architecture: str, ranks: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model(config_of(architecture), seed=0).save_pretrained(tmp_path / "model")
    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.setenv("RANK", "0")

    with pytest.raises(UsageError, match=message):
        parallel.open_parallel(tmp_path / "model", weights_dtype="float32", cache_dtype="float32")
