"""The checkpoints that `cdgen eval` is given: model folders, run folders with their steps, models of the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cdgen.builders.look_up import hub_address, model_info
from cdgen.builders.snapshots import snapshot
from cdgen.errors import UsageError
from cdgen.recipes.schema import HubModel

RUN, STEP, EVAL = "run.json", "step-", "eval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model to evaluate.

    Attributes:
        name: what results call it, without a machine's path.
        folder: where it is.
        results: where its results go, unless another place is asked for.
    """

    name: str
    folder: Path
    results: Path


def find_checkpoints(addresses: Sequence[str], steps: Sequence[int] = ()) -> list[Checkpoint]:
    """All checkpoints of the addresses, in their order; steps of a run in theirs.

    Args:
        addresses: model folders, run folders, hf://OWNER/NAME[@REVISION].
        steps: of run folders, only these; all of them by default.

    Raises:
        UsageError: one is not there, or is neither; a step that a run does not have; the same one twice.
    """
    found: list[Checkpoint] = []
    for address in addresses:
        found += [_on_the_hub(address)] if "://" in address else _in(Path(address), steps)
    for number, one in enumerate(found):
        if any(one.name == other.name for other in found[:number]):
            raise UsageError(
                f"{one.name} is named twice; evaluate checkpoints of one name in separate calls"
            )
    return found


def _on_the_hub(address: str) -> Checkpoint:
    model, revision = hub_address(address, "cdgen eval")
    at = f"hf://{model}@{revision}"
    about = model_info(model, revision, at)
    try:
        place = HubModel(model=model, revision=about.sha or "")
    except ValidationError:
        raise UsageError(f"{at}: the Hub names no commit of {revision}") from None
    folder = snapshot(place, at, weights=True)
    name = f"{model.replace('/', '--')}@{place.revision[:8]}"
    return Checkpoint(name=name, folder=folder, results=Path(EVAL) / name)


def _in(folder: Path, steps: Sequence[int]) -> list[Checkpoint]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; a model on the Hub is hf://OWNER/NAME")
    folder = folder.resolve()
    if (folder / "config.json").is_file():
        return [_step(folder) if _is_step(folder) else _alone(folder)]
    there = sorted(one for one in folder.glob(f"{STEP}*") if _is_step(one))
    if not there:
        raise UsageError(
            f"{folder}: neither a model (config.json) nor a run (folders {STEP}000500 and so on) is in it"
        )
    chosen = [one for one in there if not steps or _number(one) in steps]
    missing = set(steps) - {_number(one) for one in there}
    if missing:
        has = ", ".join(str(_number(one)) for one in there)
        raise UsageError(f"{folder}: has no step {min(missing)}; it has {has}")
    return [_step(one) for one in chosen]


def _is_step(folder: Path) -> bool:
    return (
        folder.name.startswith(STEP)
        and folder.name.removeprefix(STEP).isdigit()
        and (folder / "config.json").is_file()
    )


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix(STEP))


def _step(folder: Path) -> Checkpoint:
    run = folder.parent
    return Checkpoint(
        name=f"{run.name}/{folder.name}", folder=folder, results=run / EVAL / folder.name
    )


def _alone(folder: Path) -> Checkpoint:
    return Checkpoint(name=folder.name, folder=folder, results=folder.parent / EVAL / folder.name)
