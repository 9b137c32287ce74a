"""Text from anybody, on a terminal."""


def harmless(text: str) -> str:
    """Without what could steer a terminal: a model may write anything."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)
