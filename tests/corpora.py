"""What tests ask of a corpus folder: its bytes, its events, a copy."""

import hashlib
import json
import subprocess
from pathlib import Path

from cdgen.builders.report import Report


def hashes(out: Path) -> dict[str, str]:
    """sha256 of every shard and of the manifest, by name."""
    files = [
        *sorted(out.glob("data/*/*.tar")),
        *sorted(out.glob("index/*.parquet")),
        out / "manifest.json",
    ]
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def events(out: Path, name: str) -> list[dict[str, object]]:
    """The events of a kind, over all builds of the folder."""
    lines = (out / "work/events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def stages(out: Path) -> list[object]:
    """The stages that were begun, in order."""
    return [event["stage"] for event in events(out, "start")]


def copied(built: tuple[Path, Path, Report], folder: Path) -> tuple[Path, Path, Report]:
    """A copy of a built corpus and its recipe that a test may change."""
    recipe, out, report = built
    subprocess.run(["cp", "-r", str(out), str(folder / "out")], check=True)
    subprocess.run(["cp", str(recipe.with_name("tales.txt")), str(folder)], check=True)
    (folder / recipe.name).write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    return folder / recipe.name, folder / "out", report
