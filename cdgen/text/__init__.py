"""Real text: where documents come from, which side of the split they are on, and their token ids."""
