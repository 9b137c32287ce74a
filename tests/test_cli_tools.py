"""The verbs around a build, as a user types them: data on stdout, one line on stderr for a mistake, the exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import jsonschema
import pytest
from small import SMALL_RECIPE

from cdgen.cli import app
from cdgen.errors import StoppedError


def cdgen(
    folder: Path, *arguments: str, exit_code: int = 0, stderr: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `cdgen ARGUMENTS` in a folder and check how it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "cdgen", *arguments],
        cwd=folder,
        env={**os.environ, "CDGEN_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    assert stderr in done.stderr and "Traceback" not in done.stderr
    return done


@pytest.fixture
def home(tmp_path: Path, small_text: str) -> Path:
    """A folder with the small recipe."""
    (tmp_path / "tales.txt").write_text(small_text, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE, encoding="utf-8")
    return tmp_path


def test_a_change_on_the_command_line_is_checked_planned_and_built(home: Path) -> None:
    """And building the kept recipe gives the same corpus, once its text is named again."""
    change = ("--set", "mix.synthetic=0.2", "--set", "name=less")
    assert "less" in cdgen(home, "check", "small.yaml", *change).stdout
    planned = json.loads(cdgen(home, "plan", "small.yaml", *change, "--no-time", "--json").stdout)
    assert planned["folder"] == "shards/less"

    cdgen(home, "build", "small.yaml", *change)
    text = f"text.sources[0].path={home / 'tales.txt'}"
    cdgen(home, "build", "shards/less/recipe.yaml", "--out", "again", "--set", text)

    assert "same shards, byte for byte" in cdgen(home, "diff", "shards/less", "again").stdout
    lock = json.loads((home / "shards/less/recipe.lock.json").read_text())
    assert lock["digests"]["mix"] == planned["digests"]["mix"]
    listed = json.loads(cdgen(home, "cache", "--json").stdout)
    assert [entry["kind"] for entry in listed["entries"]].count("tokenizers") == 1
    assert "cleared 2 entries" in cdgen(home, "cache", "--clear").stdout


def test_a_plan_with_a_builder_tells_its_workers_and_starts_nothing(home: Path) -> None:
    """In words, as JSON, and a mistake in the profile with its place."""
    profile = "version: 1\nname: two\nengine: ray\nstorage: corpora\nworkers: {max: 2, cpus: 0.1}\n"
    (home / "two.yaml").write_text(profile, encoding="utf-8")
    command = ("plan", "small.yaml", "--builder", "two.yaml")

    assert "two: 2 workers; the profile says" in cdgen(home, *command).stdout
    planned = json.loads(cdgen(home, *command, "--no-time", "--json").stdout)
    assert planned["folder"] == "corpora/small"
    fleet = planned["fleet"]
    assert (fleet["num_workers"], fleet["decoding_s"]) == (2, None)
    assert fleet["most_jobs"] == -(-planned["num_synthetic_shards"] // 2)
    assert sorted(path.name for path in home.iterdir()) == ["small.yaml", "tales.txt", "two.yaml"]

    (home / "two.yaml").write_text(profile.replace("max:", "maximum:"), encoding="utf-8")
    place = "cdgen: two.yaml:5:11: unknown field 'workers.maximum'"
    cdgen(home, *command, exit_code=2, stderr=place)


def test_a_cluster_that_is_not_there_is_told_before_any_work(home: Path) -> None:
    """Not after the text was prepared and the expert trained."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    profile = f"version: 1\nname: gone\nengine: ray\naddress: {address}\n"
    (home / "gone.yaml").write_text(profile, encoding="utf-8")

    why = (
        f"cdgen: no Ray at address {address} (profile gone): [Errno 111] Connection refused; start"
    )
    done = cdgen(home, "build", "small.yaml", "--builder", "gone.yaml", exit_code=2, stderr=why)

    assert "begun" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (home / "cache").exists() and not (home / "shards").exists()


def test_auto_on_a_machine_without_a_cluster_is_told_before_any_work(home: Path) -> None:
    """In a process namespace, which sees no Ray of another test; not after hours, at the first shard."""
    pytest.importorskip("ray")
    alone = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    probe = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"process namespaces are not allowed here: {probe.stderr.strip()}")
    (home / "auto.yaml").write_text(
        "version: 1\nname: cluster\nengine: ray\naddress: auto\n", encoding="utf-8"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [*alone, sys.executable, "-m", "cdgen", "build", "small.yaml", "--builder", "auto.yaml"],
        cwd=home,
        env=environment | {"CDGEN_CACHE": str(home / "cache"), "RAY_TMPDIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith(
        "cdgen: no Ray at address auto (profile cluster): this machine is part of none; start one"
    )
    assert len(done.stderr.splitlines()) == 1
    assert not (home / "cache").exists() and not (home / "shards").exists()


def test_an_interrupted_build_says_that_the_same_command_goes_on(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cdgen", "build", "small.yaml"],
        cwd=home,
        env={**os.environ, "CDGEN_CACHE": str(home / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    ) as build:
        assert build.stderr is not None
        begun = build.stderr.readline()
        build.send_signal(signal.SIGINT)
        *_, last = build.stderr.readlines()
    assert "begun" in begun
    assert last == "cdgen: interrupted; the same command goes on from here\n"
    assert build.returncode == 130


def test_what_begins_anew_is_interrupted_without_a_promise(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cdgen.builders.checking.verify_anywhere", interrupted)
    with pytest.raises(StoppedError, match=r"^interrupted$"):
        app(["verify", str(home)])


def test_a_wrong_change_is_one_line_and_exit_2(home: Path) -> None:
    for verb in ("build", "plan", "check"):
        done = cdgen(home, verb, "small.yaml", "--set", "decode.lamda=1", exit_code=2)
        assert done.stderr == (
            "cdgen: --set decode.lamda=1: unknown field 'decode.lamda' (did you mean 'lambda'?)\n"
        )


def test_a_change_of_a_builder_profile_is_checked(tmp_path: Path) -> None:
    """By the same option."""
    (tmp_path / "here.yaml").write_text("version: 1\nname: here\nengine: local\n", encoding="utf-8")

    assert "there" in cdgen(tmp_path, "check", "here.yaml", "--set", "name=there").stdout
    cdgen(
        tmp_path,
        "check",
        "here.yaml",
        "--set",
        "engin=x",
        exit_code=2,
        stderr="did you mean 'engine'?",
    )


def test_init_then_check(tmp_path: Path) -> None:
    """The next command is printed, and it works; a second init overwrites nothing."""
    printed = cdgen(tmp_path, "init").stdout

    assert printed.endswith("next: cdgen build recipe.yaml\n")
    cdgen(tmp_path, "check", "recipe.yaml")
    cdgen(tmp_path, "init", exit_code=2, stderr="cdgen: recipe.yaml: is there already")


def test_the_printed_schema_is_one(tmp_path: Path) -> None:
    for kind in ((), ("recipe",), ("builder",)):
        printed = json.loads(cdgen(tmp_path, "schema", *kind).stdout)
        jsonschema.Draft202012Validator.check_schema(printed)


def test_diff_exits_1_for_different_and_2_for_incomparable(home: Path) -> None:
    (home / "other.yaml").write_text(SMALL_RECIPE.replace("0.3", "0.4"), encoding="utf-8")

    assert cdgen(home, "diff", "small.yaml", "small.yaml").stdout
    shown = cdgen(home, "diff", "small.yaml", "other.yaml", exit_code=1).stdout
    assert "mix.synthetic: 0.3 -> 0.4   moves mix" in shown
    facts = json.loads(
        cdgen(home, "diff", "small.yaml", "other.yaml", "--json", exit_code=1).stdout
    )
    assert facts["fields"][0]["moves"] == ["mix"]
    cdgen(home, "diff", "small.yaml", ".", exit_code=2, stderr="is not a finished corpus")


def test_index_reports_what_it_refuses(tmp_path: Path) -> None:
    """Exit 1, with every tar that could be indexed indexed."""
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("000.txt"))
    assert "1 tars, 1 samples: 1 .txt" in cdgen(tmp_path, "index", "tars").stdout
    (tmp_path / "tars/b.tar").write_bytes(b"x" * 2000)

    shown = cdgen(tmp_path, "index", "tars", exit_code=1).stdout

    assert "1 tars, 1 samples" in shown and "b.tar: refused: at byte 0: not a tar header" in shown
    cdgen(tmp_path, "index", "nowhere", exit_code=2, stderr="cdgen: nowhere: no such folder")


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thesis.tex").write_text("x")

    cdgen(
        tmp_path, "cache", "--clear", exit_code=2, stderr="not a cdgen cache, it holds thesis.tex"
    )

    assert (tmp_path / "cache/thesis.tex").exists()
