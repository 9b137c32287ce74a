"""Training from the real shards, and the perplexity that chooses a checkpoint."""
