"""Builder profiles: where a recipe is built. Strict YAML like recipes; nothing in them can change a byte."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cdgen.recipes.load import load_recipe, load_strict
from cdgen.recipes.runs import load_run
from cdgen.recipes.schema import Count, Name, Positive, Spec
from cdgen.recipes.sweeps import load_sweep

Limit = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0.0)]


_ADDRESS = r"^(local|auto|(ray://)?[^\s/@:]{1,200}:\d{1,5})$"


def _check_address(value: str) -> str:
    if not re.match(_ADDRESS, value):
        raise ValueError(f"must be local, auto, HOST:PORT or ray://HOST:PORT, found {value!r}")
    return value


Address = Annotated[
    str, AfterValidator(_check_address), Field(json_schema_extra={"pattern": _ADDRESS})
]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9!]?[A-Za-z0-9 ,()!._/-]*$", max_length=200)]


class Workers(Spec):
    """How many workers, and what each of them needs of the machine it runs on."""

    min: Count = 1
    """Decoding begins when so many have joined; it goes on with fewer."""
    max: Count | None = None
    """How many are asked for: a cluster that grows by itself grows until it has them. Absent: as many as fit into the
    machines that are there, and into those that join later."""
    gpus: Amount | None = None
    """GPUs of one worker; 0.5 puts two workers on a GPU. Absent: 1 where there are GPUs, and otherwise 0."""
    cpus: Amount = 1.0
    """CPU cores of one worker; give at least the recipe's generate.threads."""
    memory_gib: Positive | None = None
    """Main memory of one worker, for placing it. Absent: not looked at."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Labels of the Ray nodes that workers may run on, such as {ray.io/accelerator-type: H100}."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max must be at least min, {self.min}; found {self.max}")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be whole when it is above 1, found {self.gpus}")
        return self


class Retries(Spec):
    """How often a job is done again before it is set aside by name."""

    death: Limit = 10
    """After the death of the worker that had it: a lost machine, a kill, a crash of the process."""
    error: Limit = 1
    """After an error of the job's own."""


class Stragglers(Spec):
    """When a job that takes too long is done a second time on an idle worker; the first receipt wins."""

    times: Annotated[float, Field(gt=1.0)] = 3.0
    """Once it has taken this many times as long as the middle one of the finished jobs."""
    at_least_s: Amount = 30.0
    """And not before so many seconds."""


class Profile(Spec):
    """One place to build in."""

    version: Literal[1]
    """Of the profile format."""
    name: Name
    """How `--builder` names it."""
    description: str = ""
    """For people."""
    engine: Literal["local", "ray"]
    """local: this process, one job after the other. ray: workers of a Ray cluster."""
    storage: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Where corpora go when `--out` is not given, each under its recipe's name: a folder, s3:// or gs://; shards by
    default."""
    cache: Path | None = Field(default=None, strict=False)
    """Where each machine keeps tokenizers, weights and fetched models; $CDGEN_CACHE, or the user's cache folder, by
    default."""
    processes: Limit | None = None
    """That look at text for the filters and write mixed shards, on the machine that `cdgen build` runs on and beside
    the decoding. Absent: one for each of its processors, at most 16, and none for a small corpus; 0 does it all in
    the build's own process, after the decoding."""
    address: Address = "local"
    """Of engine ray: local starts Ray on this machine, auto joins the cluster that this machine is part of; or the
    address of a head node, HOST:PORT from inside the cluster, ray://HOST:PORT from outside."""
    workers: Workers = Workers()
    """Of engine ray."""
    in_flight: Count = 2
    """Of engine ray: jobs that a worker has at once. One is decoded while another is written."""
    retries: Retries = Retries()
    """Of engine ray."""
    stragglers: Stragglers | None = Stragglers()
    """Of engine ray; null does nothing twice."""
    patience_s: Positive = 600.0
    """Of engine ray: how long to wait while there is no worker at all, before the build stops."""

    def placed(
        self, recipe: str, out: str | Path | None, cache: Path | None
    ) -> tuple[str | Path | None, Path | None]:
        """(where a recipe's corpus goes, the cache folder), where the caller did not say."""
        if out is None and self.storage is not None:
            out = f"{self.storage.rstrip('/')}/{recipe}"
        return out, cache or self.cache

    @model_validator(mode="after")
    def _of_the_engine(self) -> Self:
        odd = sorted(self.model_fields_set & _OF_RAY) if self.engine != "ray" else []
        if odd:
            raise ValueError(f"{odd[0]} belongs to engine: ray; leave it out")
        return self


_OF_RAY = {"address", "workers", "in_flight", "retries", "stragglers", "patience_s"}


def load_profile(file: Path, changes: Sequence[str] = ()) -> Profile:
    """Read and check a builder profile, with `field=value` changes; UsageError with file:line:column."""
    what = "builder profile; the packaged ones are called local, ray-local and ray-cluster"
    return load_strict(file, Profile, what, changes)[0]


def check_file(file: Path, changes: Sequence[str] = ()) -> tuple[str, str]:
    """(kind, name) of a valid recipe, run file, sweep or builder profile, after `changes`; UsageError otherwise."""
    keys = _top_level_keys(file)
    if "engine" in keys:
        return "builder profile", load_profile(file, changes).name
    if "corpus" in keys:
        return "run file", load_run(file, set=changes).run.name
    if "matrix" in keys:
        return "sweep", load_sweep(file, set=changes).sweep.name
    return "recipe", load_recipe(file, set=changes).recipe.name


def _top_level_keys(file: Path) -> set[str]:
    """What tells the kinds of files apart: see `cdgen.recipes.load.KINDS`."""
    try:
        with file.open(encoding="utf-8") as stream:
            return {line.partition(":")[0].rstrip() for line in stream if line[:1].isalpha()}
    except (OSError, UnicodeDecodeError):
        return set()
