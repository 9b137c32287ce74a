"""benchmarks/gpu_check.py runs to its end on a CPU, and where only torch, transformers and numpy are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_check.py"
ABSENT = ("datasets", "pydantic", "ray", "webdataset", "zstandard")

_PROGRAM = """
import runpy, sys
for name in {absent}:
    sys.modules[name] = None  # an import of it fails, a search for it finds nothing
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_part_runs_with_torch_transformers_and_numpy_alone(tmp_path: Path) -> None:
    """The whole script, tiny: what it needs on the GPU machine must be there, and every check must hold."""
    out = tmp_path / "found.json"
    argv = [str(SCRIPT), "--device", "cpu", "--tiny", "--rows", "4", "--json", str(out)]

    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(absent=ABSENT, argv=argv)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["failed"] == []
    assert found["loop"]["contrastive"]["replay_is_launches"]
    assert found["loop"]["contrastive"]["eager_agreement"] == 1.0
    assert found["speed"]["4"]["contrastive"] > 0 and found["speed"]["4"]["floor"] > 0
