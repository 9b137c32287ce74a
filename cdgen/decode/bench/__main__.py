"""One part of the benchmark, for `run.measure`: name, size, threads, rows; JSON on stdout."""

import json
import sys

from cdgen.decode.bench.run import run_part

name, size, threads, rows = sys.argv[1:]
sys.stdout.write(json.dumps(run_part(name, size, int(threads), int(rows))) + "\n")
