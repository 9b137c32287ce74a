"""How fast decoding is, beside the reference study's loop, transformers' generate() and the hardware's floor.

    python benchmarks/decode.py --size cpu --json decode.json       # the same as `cdgen bench`

The parts are in `cdgen/decode/bench`, so that an installed cdgen can measure, too.
"""

import argparse
import json
from pathlib import Path

from cdgen.decode.bench.pairs import SIZES
from cdgen.decode.bench.run import PARTS, measure, table


def main() -> None:
    """Parse the options, measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="cpu")
    parser.add_argument("--part", action="append", default=[], choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, help="rows of a batch (the size's own)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    found = measure(options.size, parts=options.part, threads=options.threads, rows=options.rows)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
