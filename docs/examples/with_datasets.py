"""datasets reads them through the corpus's card; cdgen is not needed."""

import sys

from datasets import load_dataset

samples = load_dataset(sys.argv[1], "mixed", split="train", streaming=True)
for sample in samples:
    print(sample["__key__"], sample["json"]["source"], len(sample["npy"]), repr(sample["txt"][:20]))
