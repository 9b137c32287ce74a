"""What people look at: progress, summaries, errors."""
