"""What a worker needs of a node in Ray's words, and how many fit."""

from collections.abc import Mapping
from typing import Any

import ray

from cdgen.builders.profile import Profile
from cdgen.builders.ray.session import session

_GIB = 1 << 30


def needs_of(profile: Profile) -> dict[str, float]:
    """Ray's resources for one worker."""
    workers = profile.workers
    gpus = workers.gpus
    if gpus is None:
        gpus = 1.0 if any(node["Resources"].get("GPU") for node in ray.nodes()) else 0.0
    needs = {"CPU": workers.cpus}
    if gpus:
        needs["GPU"] = gpus
    if workers.memory_gib is not None:
        needs["memory"] = workers.memory_gib * _GIB
    return needs


def fit(node: Mapping[str, Any], profile: Profile, needs: Mapping[str, float]) -> int:
    """How many workers fit into a node."""
    labels = profile.workers.labels.items()
    plain = {key: value for key, value in labels if value[:1] != "!" and "(" not in value}
    if not node["Alive"] or any(node["Labels"].get(key) != plain[key] for key in plain):
        return 0
    rooms = [node["Resources"].get(key, 0) // need for key, need in needs.items() if need]
    return int(min(rooms, default=1))


def room(profile: Profile) -> tuple[int, float]:
    """(how many workers fit into the nodes that are there now, GPUs of one); joins the cluster to ask, starts nothing.

    Raises:
        UsageError: there is no Ray at the profile's address.
    """
    assert profile.address != "local"
    with session(profile):
        needs = needs_of(profile)
        return sum(fit(node, profile, needs) for node in ray.nodes()), needs.get("GPU", 0.0)


def amounts(resources: Mapping[str, float]) -> str:
    """2 CPU, 0.5 GPU, 16 GiB memory."""
    words = []
    for key in ("CPU", "GPU", "memory"):
        if resources.get(key):
            value = resources[key] / _GIB if key == "memory" else resources[key]
            words.append(f"{value:g} {'GiB memory' if key == 'memory' else key}")
    return ", ".join(words)
