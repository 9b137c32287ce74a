"""The workers of a planned build, as `cdgen plan --builder` prints them."""

from cdgen.builders.estimate import human
from cdgen.builders.fleet import Fleet
from cdgen.builders.needs import Needs
from cdgen.reports.workers import duration


def fleet_rows(fleet: Fleet, needs: Needs) -> list[tuple[str, str]]:
    """Workers, what each does and takes, time and GPU-hours; warnings last."""
    share = f", {fleet.idle_share:.0%} of their time idle at the end" if fleet.idle_share else ""
    rows = [
        ("builder", f"{fleet.builder}: {_workers(fleet)}"),
        ("each worker", f"at most {_count(fleet.most_jobs, 'shard')}{share}; {_asks(fleet)}"),
    ]
    if fleet.decoding_s is not None:
        rows += _time(fleet, needs)
    rows += [("warning", line) for line in _warnings(fleet, needs)]
    return rows


def _workers(fleet: Fleet) -> str:
    count = _count(fleet.num_workers, "worker")
    if fleet.engine == "local":
        return f"{count}, this process"
    most = "as many as fit" if fleet.max_workers is None else f"at most {fleet.max_workers}"
    said = f"the profile says at least {fleet.min_workers}, {most}"
    where = "this machine" if fleet.address == "local" else "the machines that are there now"
    if fleet.num_fit is None:
        return f"{count} reckoned with; {said}; how many fit is not known: {fleet.why_not}"
    return f"{count}; {said}; {fleet.num_fit} fit into {where}"


def _asks(fleet: Fleet) -> str:
    takes = "unknown" if fleet.worker_memory_bytes is None else human(fleet.worker_memory_bytes)
    asks = [f"takes {takes} of memory"]
    if fleet.memory_gib is not None:
        asks.append(f"asks for {fleet.memory_gib:g} GiB")
    if fleet.gpus:
        asks.append(f"{fleet.gpus:g} GPU")
    return ", ".join(asks)


def _time(fleet: Fleet, needs: Needs) -> list[tuple[str, str]]:
    assert fleet.decoding_s is not None
    training = f"training {duration(needs.training_s)} on the driver, " if needs.training_s else ""
    gpu = "" if fleet.gpu_hours is None else f"; {fleet.gpu_hours:.2f} GPU-hours of the workers"
    return [
        (
            "time",
            f"{training}decoding {duration(fleet.decoding_s)} if every worker is as fast as this machine{gpu}",
        ),
        ("expert runs by", f"{needs.decoding_path}, on this machine"),
    ]


def _warnings(fleet: Fleet, needs: Needs) -> list[str]:
    found = []
    decodes_here = fleet.engine == "local"
    if not (needs.fits if decodes_here else needs.driver_fits):
        found.append("this machine is too small for it: see disk and memory")
    if fleet.memory_fits is False and not decodes_here:
        found.append(
            "a worker takes more memory than it asks for: raise workers.memory_gib"
            if fleet.memory_gib is not None
            else "this machine has too little memory for so many workers: lower workers.max"
        )
    if fleet.num_fit == 0:
        found.append("no worker fits into the machines that are there: see workers of the profile")
    elif fleet.num_fit is not None and fleet.num_fit < fleet.min_workers:
        found.append(
            f"decoding begins with {fleet.min_workers} workers (workers.min), and {fleet.num_fit} fit"
        )
    if fleet.same_device is False:
        has = "without a GPU" if fleet.gpus else "with a GPU"
        found.append(f"the time was measured {has}, and workers decode otherwise: it tells little")
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
