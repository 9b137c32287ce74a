"""The decode stage on the workers of a Ray cluster."""

import gc
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING, Any

from cdgen.builders.drawn import DrawnTokens
from cdgen.builders.drive import Driver
from cdgen.builders.fetch import source_of
from cdgen.builders.hand import Order
from cdgen.builders.profile import Profile
from cdgen.builders.ray.crew import RayCrew
from cdgen.builders.ray.metrics import Metrics
from cdgen.builders.ray.session import session
from cdgen.recipes.addresses import address_of
from cdgen.storage import Receipt
from cdgen.storage.places import Folder

if TYPE_CHECKING:
    from cdgen.builders.decoding import Decoding


def decode_on_ray(decoding: "Decoding", profile: Profile) -> None:
    """Do the jobs of a build on the workers of a Ray cluster.

    Raises:
        UsageError: there is no Ray at the profile's address.
        HeadLostError: the cluster's head is gone.
        BuildError: not every job could be done.
    """
    _release_gpu()
    with session(profile):
        crew = RayCrew(profile, order_of(decoding, profile), _name(decoding), clock=decoding.clock)
        metrics = Metrics(decoding.work.recipe.name)
        with decoding.log.also(metrics.heard), closing(crew), _Bringing(decoding) as bring:
            driver = Driver(
                iter(decoding.todo),
                crew,
                profile,
                numeric_class=decoding.numeric_class,
                log=decoding.log,
                clock=decoding.clock,
                on_shard=bring,
            )
            if decoding.before is not None:
                decoding.before(lambda look, _: driver.look(look))
            with decoding.counted() as advance:
                driver.run(DrawnTokens(advance, decoding.size))


def _release_gpu() -> None:
    """What torch keeps of a GPU after training here is a worker's, which may be on the same one."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def order_of(decoding: "Decoding", profile: Profile) -> Order:
    """What the workers of a build are told."""
    work, models, recipe = decoding.work, decoding.models, decoding.work.recipe
    place = work.place
    if isinstance(place, Folder):
        place = Folder(place.root.absolute())  # a worker's folder is not the driver's
    return Order(
        recipe=recipe,
        context=decoding.context,
        expert=source_of(models.expert.folder, address_of(recipe.expert)),
        amateur=source_of(models.amateur.folder, address_of(recipe.amateur))
        if models.amateur
        else None,
        further=tuple(
            source_of(model.folder, address_of(given))
            for model, given in zip(models.further, recipe.decode.further, strict=True)
        ),
        place=place,
        cache=profile.cache,
    )


def _name(decoding: "Decoding") -> str:
    return f"cdgen-{decoding.work.recipe.name}"


class _Bringing:
    """Brings delivered shards to the driver's own folder, where the mix reads them; beside the decoding."""

    def __init__(self, decoding: "Decoding") -> None:
        self._decoding, self._stop = decoding, Event()
        self._place = decoding.work.place.until(self._stop)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="cdgen-bring")
        self._coming: deque[Future[None]] = deque()

    def __enter__(self) -> "_Bringing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                for future in self._coming:
                    future.result()
        finally:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, receipt: Receipt, worker: str) -> None:
        self._decoding.finished(receipt, worker=worker)
        if self._decoding.work.in_place:
            self._decoding.on_shard(receipt)
            return
        self._coming.append(self._pool.submit(self._bring, receipt))
        while self._coming and self._coming[0].done():
            self._coming.popleft().result()

    def _bring(self, receipt: Receipt) -> None:
        self._place.fetch(self._decoding.work.out, receipt)
        self._decoding.on_shard(receipt)
