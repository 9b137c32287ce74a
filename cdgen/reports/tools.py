"""What `cdgen init`, `cdgen index` and `cdgen cache` print."""

from collections.abc import Sequence
from pathlib import Path

from cdgen.builders.kept import Cache
from cdgen.builders.launch import Launch
from cdgen.recipes.schema import HubModel
from cdgen.recipes.starter import GivenExpert
from cdgen.shards.foreign import FOREIGN_MANIFEST, ForeignReport


def init_text(written: Sequence[Path], *, own: bool, expert: GivenExpert | None = None) -> str:
    """What was written, and the next command.

    Args:
        written: the files, the recipe first.
        own: whether the recipe is on the user's own text, whose licence only the user knows.
        expert: the model that was given to be the expert.
    """
    lines = [f"wrote {', '.join(map(str, written))}"]
    if expert is not None:
        lines.append(_expert_text(expert))
    if own:
        lines.append("name the text's licence in it")
    look_first = own or expert is not None
    lines.append(f"next: cdgen {'plan' if look_first else 'build'} {written[0]}")
    return "\n".join(lines)


def launch_text(written: Sequence[Path], builder: str, recipe: Path, launch: Launch | None) -> str:
    """What was written for a builder, and the next command."""
    lines = [f"wrote {', '.join(map(str, written))}" if written else "everything is there already"]
    if not recipe.is_file():
        lines.append(f"{recipe} is not there yet; cdgen init {recipe} writes one")
    if launch is None:
        profile = recipe.parent / f"{builder}.yaml"
        return "\n".join([*lines, f"next: cdgen build {recipe} --builder {profile}"])
    lines.append(f"change what {launch.file} says at 1, 2 and 3")
    return "\n".join([*lines, f"next: {launch.command}"])


def _expert_text(expert: GivenExpert) -> str:
    place = expert.place
    name = f"{place.model}@{place.revision[:8]}" if isinstance(place, HubModel) else str(place)
    return f"expert: {name}, {expert.layers} layers, licence {expert.license or 'unknown'}"


def index_text(report: ForeignReport) -> str:
    """Counts, then what was left out and what was refused."""
    manifest = report.manifest
    endings: dict[str, int] = {}
    for tar in manifest.tars:
        for ending, count in tar.endings.items():
            endings[ending] = endings.get(ending, 0) + count
    members = ", ".join(f"{count:,} .{ending}" for ending, count in sorted(endings.items()))
    num_samples = sum(tar.num_samples for tar in manifest.tars)
    lines = [f"{len(manifest.tars):,} tars, {num_samples:,} samples: {members or 'none'}"]
    lines += [f"  {note}" for note in report.notes]
    lines += [f"  {name}: refused: {why}" for name, why in manifest.refused.items()]
    return "\n".join([*lines, f"index: {report.folder}/{FOREIGN_MANIFEST}"])


def cache_text(cache: Cache) -> str:
    """One line an entry, newest first, then the sum."""
    lines = [
        f"{entry.kind:<10}  {entry.digest[:8]}  {entry.numeric_class or '-':<8}  {_bytes(entry.num_bytes):>9}  "
        f"{entry.age_days:6.1f} days"
        for entry in cache.entries
    ]
    head = [f"{'kind':<10}  {'digest':<8}  {'class':<8}  {'size':>9}  {'age':>11}"] if lines else []
    done = "cleared " if cache.cleared else ""
    total = f"{done}{len(cache.entries)} entries, {_bytes(cache.num_bytes)}, in {cache.folder}"
    return "\n".join([*head, *lines, total])


def _bytes(count: int) -> str:
    """Bytes in powers of 1000, with three digits."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
