"""What was made lately, up to a limit: memory does not grow with the corpus."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by key; the ones that were not asked for longest are let go.

    Args:
        limit: the sum of weights that is kept. One value is kept whatever it weighs.
        weigh: the weight of a value.
        drop: told of every value that is let go.
    """

    def __init__(
        self,
        limit: int,
        weigh: Callable[[Value], int] | None = None,
        drop: Callable[[Value], object] | None = None,
    ) -> None:
        self._limit, self._weigh = limit, weigh or _one
        self._drop = drop
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.weight = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._limit, self._weigh, self._drop)  # another process begins empty

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, made now if it is not here."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self._values[key] = value
        self.weight += self._weigh(value)
        while self.weight > self._limit and len(self._values) > 1:
            _, old = self._values.popitem(last=False)
            self.weight -= self._weigh(old)
            if self._drop is not None:
                self._drop(old)
        return value

    def __len__(self) -> int:
        return len(self._values)


def _one(_: object) -> int:
    return 1
