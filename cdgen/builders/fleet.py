"""What a builder profile makes of a plan: how many workers there would be, and how the decoding is divided over them.

Ray is not started for it: a cluster is asked only where one can be joined at the profile's address.
"""

import os
from dataclasses import dataclass

from cdgen.builders.estimate import memory_bytes
from cdgen.builders.needs import Needs
from cdgen.builders.profile import Profile
from cdgen.builders.reach import check_reachable
from cdgen.errors import UsageError

PROCESS_BYTES = 500_000_000
"""Of a worker besides models, caches and logits: Python, torch, text."""
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Room:
    """Where workers could be.

    Attributes:
        num_fit: how many fit; None where nothing could be asked.
        num_gpus: of one worker; None where the profile does not say and nothing could be asked.
        why_not: nothing could be asked; empty where it could.
    """

    num_fit: int | None
    num_gpus: float | None
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers of a planned build; None where it cannot be told.

    Attributes:
        builder, engine, address: of the profile; no address for the local engine.
        min_workers, max_workers: the profile's.
        num_fit, why_not: how many workers fit into the machines that are there now, or why that is not known.
        num_workers: what is reckoned with: no more than there are jobs.
        most_jobs: of one worker.
        idle_share: of the workers' time, while the last jobs are done.
        gpus, memory_gib: of one worker, as asked for.
        worker_memory_bytes: what a worker takes at its fullest, on a GPU if it has one.
        memory_fits: whether that is no more than a worker may have, where it decodes on the CPU.
        decoding_s: of all workers together, each as fast as this machine.
        gpu_hours: of all workers, while they decode.
        same_device: whether this machine decodes as the workers do, on a GPU or without.
    """

    builder: str
    engine: str
    address: str | None
    min_workers: int
    max_workers: int | None
    num_fit: int | None
    why_not: str
    num_workers: int
    most_jobs: int
    idle_share: float
    gpus: float | None
    memory_gib: float | None
    worker_memory_bytes: int | None
    memory_fits: bool | None
    decoding_s: float | None
    gpu_hours: float | None
    same_device: bool | None


def fleet(profile: Profile, needs: Needs, num_jobs: int) -> Fleet:
    """Divide `num_jobs` jobs over a profile's workers.

    Args:
        profile: where it would be built.
        needs: what the build takes in one process of this machine.
        num_jobs: synthetic shards.
    """
    room = _room(profile)
    on_ray = profile.engine == "ray"
    most = profile.workers.max if on_ray else 1
    num_workers = max(1, min(_expected(profile, room) if on_ray else 1, num_jobs))
    waves = -(-num_jobs // num_workers)
    decoding_s = gpu_hours = None
    if needs.decoding_s is not None and num_jobs:
        decoding_s = needs.decoding_s * waves / num_jobs
        same = _same_device(needs, room)
        if room.num_gpus and same:
            gpu_hours = decoding_s * num_workers * room.num_gpus / 3600
    return Fleet(
        builder=profile.name,
        engine=profile.engine,
        address=profile.address if on_ray else None,
        min_workers=profile.workers.min if on_ray else 1,
        max_workers=most,
        num_fit=room.num_fit,
        why_not=room.why_not,
        num_workers=num_workers,
        most_jobs=waves,
        idle_share=1 - num_jobs / (num_workers * waves) if waves else 0.0,
        gpus=room.num_gpus,
        memory_gib=profile.workers.memory_gib,
        worker_memory_bytes=_worker_memory(needs),
        memory_fits=_memory_fits(profile, needs, room, num_workers),
        decoding_s=decoding_s,
        gpu_hours=gpu_hours,
        same_device=None if needs.decoding_s is None else _same_device(needs, room),
    )


def _expected(profile: Profile, room: Room) -> int:
    """What fits now, within the profile's limits; where nobody can tell, the most that it asks for, or the least."""
    workers = profile.workers
    if room.num_fit:
        return room.num_fit if workers.max is None else min(room.num_fit, workers.max)
    return workers.max or workers.min


def _same_device(needs: Needs, room: Room) -> bool | None:
    """Whether both have GPUs, or neither; `needs` was timed here."""
    if room.num_gpus is None:
        return None
    return (needs.gpu_memory_bytes is not None) == (room.num_gpus > 0)


def _worker_memory(needs: Needs) -> int | None:
    return needs.decoding_memory_bytes and needs.decoding_memory_bytes + PROCESS_BYTES


def _memory_fits(profile: Profile, needs: Needs, room: Room, num_workers: int) -> bool | None:
    """Main memory: against the profile's memory_gib, or on this machine against all that it has."""
    takes = _worker_memory(needs)
    if takes is None or room.num_gpus != 0:
        return None
    if profile.engine == "ray" and profile.workers.memory_gib is not None:
        return takes <= profile.workers.memory_gib * _GIB
    if profile.engine == "local" or profile.address == "local":
        return takes * num_workers <= needs.memory_bytes
    return None


def _room(profile: Profile) -> Room:
    if profile.engine == "local":
        return Room(1, min(_num_gpus(), 1))
    if profile.address == "local":
        return _here(profile)
    given = profile.workers.gpus
    try:
        check_reachable(profile)
        from cdgen.builders.ray.nodes import room

        return Room(*room(profile))
    except UsageError as error:
        return Room(None, given, str(error))


def _here(profile: Profile) -> Room:
    """What a Ray that is started on this machine would have."""
    workers, num_gpus = profile.workers, _num_gpus()
    gpus = workers.gpus if workers.gpus is not None else float(min(num_gpus, 1))
    rooms = [(os.cpu_count() or 1, workers.cpus), (num_gpus, gpus)]
    if workers.memory_gib is not None:
        rooms.append((memory_bytes(), int(workers.memory_gib * _GIB)))
    return Room(min((int(there // need) for there, need in rooms if need), default=1), gpus)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
