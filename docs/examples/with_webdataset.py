"""webdataset reads the mixed shards in training order; cdgen is not needed."""

import sys
from pathlib import Path

import webdataset

shards = sorted(str(shard) for shard in Path(sys.argv[1]).glob("data/mixed/*.tar"))
for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode():
    print(sample["__key__"], sample["json"]["source"], len(sample["npy"]), repr(sample["txt"][:20]))
