"""What Ray says of the end of an actor, and of a call: texts for people, read for their meaning."""

from ray.exceptions import OutOfMemoryError, RayTaskError

from cdgen.builders.crew import Lost

_LOW_MEMORY = ("NODE_OUT_OF_MEMORY", "running low on memory")
_EXPECTED = ("terminated expectedly", "drain", "preempt")
_IN_CREATION = "raised in its creation task"


def lost(name: str, error: BaseException) -> Lost:
    """What an error that a call came back with says of its actor."""
    text = str(error)
    raised = isinstance(error, RayTaskError) or _IN_CREATION in text
    cause = error.cause if isinstance(error, RayTaskError) else error
    return Lost(
        name,
        line_of(cause),
        expected=any(word in text for word in _EXPECTED),
        out_of_memory=isinstance(error, OutOfMemoryError) or any(w in text for w in _LOW_MEMORY),
        failed=raised,
    )


def line_of(error: BaseException) -> str:
    """One line of a text of many; of an actor's death what Ray says after its particulars."""
    text = " ".join(str(error).split())
    for mark in ("The actor is dead because ", "The actor died because "):
        text = text[text.index(mark) + len(mark) :] if mark in text else text
    for mark in (" Some common causes", " traceback: "):
        text = text.partition(mark)[0]
    return text[:300] or type(error).__name__
