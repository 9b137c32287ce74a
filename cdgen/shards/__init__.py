"""What comes out: shards, their indexes and the manifest. See shards/FORMAT.md."""
