"""The study's zero-shot tasks on local copies: readers, a batched scorer, per-item results, scores of items."""
