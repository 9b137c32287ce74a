"""benchmarks/streaming.py --quick runs to its end with the peers of this environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/streaming.py"


def test_the_quick_benchmark_measures_us_beside_two_peers(tmp_path: Path) -> None:
    path = tmp_path / "found.json"

    done = subprocess.run(
        [
            sys.executable, SCRIPT, "--work", tmp_path, "--json", path, "--quick",
            "--tasks", "shuffled", "--peers", "cdgen", "webdataset", "datasets",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert (found["missing"], found["failed"]) == ({}, {})
    assert found["delivers"] == {
        "blocks": "input_ids int64, labels int64",
        "tars": "ids int32",
        "arrow": "ids int32",
    }
    for form in found["delivers"]:
        [speed] = found["runs"][form]["speed shuffled: mtokens_per_s"]
        assert speed > 0
    assert "x the fastest peer (arrow)" in done.stdout
    assert not list(tmp_path.rglob("*.tmp"))
