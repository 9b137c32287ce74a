"""Real and synthetic text put together, exact in tokens."""
