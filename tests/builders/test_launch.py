"""The launch files: what can be said of them without Slurm, Kubernetes or a cloud; and the Slurm script really run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from corpora import events, hashes
from ray_builds import kill

from cdgen.builders.launch import LAUNCHES, write_launch
from cdgen.builders.profile import load_profile
from cdgen.builders.report import Report
from cdgen.errors import UsageError
from cdgen.resources import names, resource

FAKE_SLURM = Path(__file__).with_name("slurm")
"""srun and scontrol for one machine."""


def launch(name: str) -> Path:
    return resource("builders", "local").parent / "launch" / name


def written(folder: Path, builder: str) -> Path:
    write_launch(builder, folder / "tales-2.yaml")
    return folder / LAUNCHES[builder].file


# ---- cdgen init --builder ----


@pytest.mark.parametrize("builder", names("builders"))
def test_a_builder_is_written_beside_its_recipe(tmp_path: Path, builder: str) -> None:
    """The profile is valid, the launch file speaks of the recipe by its name, and twice is once."""
    files = write_launch(builder, tmp_path / "tales-2.yaml")

    assert load_profile(tmp_path / f"{builder}.yaml").name == builder
    assert {path.name for path in files} == {
        f"{builder}.yaml",
        "builder.schema.json",
        *([LAUNCHES[builder].file] if builder in LAUNCHES else []),
    }
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "recipe.yaml" not in text or path.name == f"{builder}.yaml"
        assert "/tales " not in text.replace("\n", " ")
    assert write_launch(builder, tmp_path / "tales-2.yaml") == []


def test_every_launch_file_is_some_builder_s() -> None:
    folder = resource("builders", "local").parent / "launch"

    assert {path.name for path in folder.iterdir()} == {one.file for one in LAUNCHES.values()}
    assert set(LAUNCHES) <= set(names("builders"))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "slurm.sh").write_text("mine")

    with pytest.raises(UsageError, match=r"slurm\.sh: another file is there"):
        write_launch("slurm", tmp_path / "recipe.yaml")

    assert [path.name for path in tmp_path.iterdir()] == ["slurm.sh"]


@pytest.mark.parametrize("name", ["$(id).yaml", "a b.yaml", "-x.yaml", "recipe", "a;b.yaml"])
def test_a_name_that_a_shell_would_read_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="launch files name the recipe in shell commands"):
        write_launch("slurm", tmp_path / name)


# ---- each file against what reads it ----


def test_the_slurm_script_is_sound(tmp_path: Path) -> None:
    script = written(tmp_path, "slurm")

    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("", 0)


def test_slurm_reads_every_option_of_the_script(tmp_path: Path) -> None:
    """sbatch stops reading at the first command; and the three lines are all before it."""
    lines = written(tmp_path, "slurm").read_text(encoding="utf-8").splitlines()

    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert len(options) >= 8 and max(options) < first
    assert all("--" in lines[n] and " #" not in lines[n] for n in options)


def test_ray_takes_the_cluster_file(tmp_path: Path) -> None:
    """Its own schema, which refuses unknown fields, and its own checks."""
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(written(tmp_path, "ray-cluster").read_text(encoding="utf-8"))
    schema = Path(ray.__file__).parent / "autoscaler/ray-schema.json"

    jsonschema.validate(config, json.loads(schema.read_text()))
    validate_config(prepare_config(config))
    assert config["max_workers"] == config["available_node_types"]["gpu"]["max_workers"]
    assert f"ray[default]=={ray.__version__}" in config["setup_commands"][0]


RAYJOB_FIELDS = {
    "spec": {"entrypoint", "entrypointNumGpus", "backoffLimit",
             "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"},
    "spec.rayClusterSpec": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                            "workerGroupSpecs"},
    "spec.rayClusterSpec.autoscalerOptions": {"idleTimeoutSeconds"},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams", "template"},
    "spec.rayClusterSpec.workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas",
                                             "rayStartParams", "template"},
}  # fmt: skip
"""Of ray.io/v1 RayJob, the fields that the manifest uses. The whole was compared with the CRD of KubeRay at feeaf72
(2026-08-19), with unknown fields refused; 1.4 MB that need not be carried here."""
POD_FIELDS = {"containers", "volumes", "tolerations", "terminationGracePeriodSeconds"}
CONTAINER_FIELDS = {"name", "image", "ports", "resources", "envFrom", "volumeMounts"}


def test_the_rayjob_has_the_fields_that_kuberay_documents(tmp_path: Path) -> None:
    text = written(tmp_path, "kuberay").read_text(encoding="utf-8")
    assert "\n  # entrypointNumGpus: 1\n" in text
    job = yaml.safe_load(text.replace("# entrypointNumGpus", "entrypointNumGpus"))
    cluster = job["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    assert job["spec"]["entrypointNumGpus"] == 1

    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    for place, fields in RAYJOB_FIELDS.items():
        node = job
        for part in place.split("."):
            node = node[part]
        for one in node if isinstance(node, list) else [node]:
            assert set(one) <= fields, place
    for group in (cluster["headGroupSpec"], *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert set(pod) <= POD_FIELDS
        for container in pod["containers"]:
            assert set(container) <= CONTAINER_FIELDS
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_rayjob_and_its_profile_agree(tmp_path: Path) -> None:
    """What the entrypoint names is mounted; there is a GPU for each worker that the profile asks for."""
    import ray

    job = yaml.safe_load(written(tmp_path, "kuberay").read_text(encoding="utf-8"))
    profile = load_profile(tmp_path / "kuberay.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]

    assert job["spec"]["entrypoint"].startswith(
        "cdgen build /etc/cdgen/tales-2.yaml --builder /etc/cdgen/kuberay.yaml --out s3://"
    )
    assert cluster["rayVersion"] == ray.__version__
    assert group["maxReplicas"] == profile.workers.max
    for part in ("head", "worker"):  # with a GPU for itself the build runs on a worker
        pod = (cluster["headGroupSpec"] if part == "head" else group)["template"]["spec"]
        mounts = pod["containers"][0]["volumeMounts"]
        assert [one["mountPath"] for one in mounts] == ["/etc/cdgen"]
        assert {one["name"] for one in mounts} == {one["name"] for one in pod["volumes"]}
    assert limits["nvidia.com/gpu"] == "1" and profile.workers.gpus == 1
    assert int(limits["cpu"]) >= profile.workers.cpus


# ---- the Slurm script, run ----

Submit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Submit]:
    """Starts slurm.sh as a batch step of a job on two nodes, both of them this machine."""
    folder, slurm = tmp_path / "home", tmp_path / "slurm"
    (folder / ".venv/bin").mkdir(parents=True)
    slurm.mkdir()
    write_launch("slurm", folder / "recipe.yaml")
    (folder / ".venv/bin/activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    started: list[subprocess.Popen[str]] = []

    def start(cdgen: str | None = None, **variables: str) -> "subprocess.Popen[str]":
        path = f"{FAKE_SLURM}:{os.environ['PATH']}"
        if cdgen is not None:
            program = folder / ".venv/bin/cdgen"
            program.write_text(f"#!{sys.executable}\n{cdgen}")
            program.chmod(0o755)
            with (folder / ".venv/bin/activate").open("a") as file:
                file.write(f"PATH={program.parent}:$PATH\n")
        job = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_MEM_PER_NODE": "1000",
            "CDGEN_OBJECT_STORE_BYTES": "80000000",
            "FAKE_SLURM": str(slurm),
            "RAY_worker_niceness": "0",  # beside a busy suite Ray's 15 starves
        }
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                ["bash", "slurm.sh"],
                cwd=folder,
                env={**os.environ, **job, "PATH": path, **variables},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for pid in (slurm / "steps").read_text().split() if (slurm / "steps").is_file() else ():
        with_children(int(pid))


def with_children(pid: int) -> None:
    """Kill a task and what it started, if they are still there."""
    if Path(f"/proc/{pid}").exists():
        os.killpg(pid, signal.SIGKILL)


LOOKS_AROUND = """
import json, os, ray, sys, time
ray.init(address="auto", logging_level="error")
while len(ray.nodes()) < 2:
    time.sleep(0.1)
nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
with open("seen.json", "w") as file:
    json.dump({"arguments": sys.argv[1:], "nodes": nodes, "token": len(os.environ["RAY_AUTH_TOKEN"])}, file)
os.execv(sys.executable, [sys.executable, "-m", "cdgen", *sys.argv[1:]])
"""
"""In place of cdgen; then it is cdgen."""


def at_home(tmp_path: Path, built: tuple[Path, Path, Report]) -> Path:
    """The folder of the job with the built recipe, and a profile for one worker without a GPU."""
    home = tmp_path / "home"
    shutil.copy(built[0], home / "recipe.yaml")
    shutil.copy(built[0].with_name("tales.txt"), home)
    profile = (home / "slurm.yaml").read_text()
    assert "gpus: 1.0\n" in profile and "cpus: 4.0 " in profile
    profile = profile.replace("gpus: 1.0\n", "gpus: 0.0\n  max: 1\n").replace(
        "cpus: 4.0 ", "cpus: 1.0 "
    )
    (home / "slurm.yaml").write_text(profile)
    return home


def test_the_slurm_script_brings_a_cluster_up_builds_and_takes_it_down(
    submit: Submit, tmp_path: Path, built: tuple[Path, Path, Report]
) -> None:
    """A head and a worker with what Slurm gave; the bytes are a local build's; nothing of the cluster is left."""
    home = at_home(tmp_path, built)
    process = submit(LOOKS_AROUND, CDGEN_CACHE=str(built[1].parent / "cache"))

    status = process.wait(500)

    log = (tmp_path / "log").read_text()
    assert status == 0, log
    assert hashes(home / "shards/recipe") == hashes(built[1])
    seen: dict[str, Any] = json.loads((tmp_path / "home/seen.json").read_text())
    assert seen["arguments"] == [
        "build",
        "recipe.yaml",
        "--builder",
        "slurm.yaml",
        "--out",
        "shards/recipe",
    ]
    assert [node["CPU"] for node in seen["nodes"]] == [1.0, 1.0] and seen["token"] == 64
    assert all(node["memory"] == 1000 * 2**20 * 4 // 5 for node in seen["nodes"])
    assert not (tmp_path / "slurm/requeued").exists()
    steps = (tmp_path / "slurm/steps").read_text().split()
    assert len(steps) == 3 and not any(Path(f"/proc/{pid}").exists() for pid in steps)
    assert not list(Path("/tmp").glob(f"cdgen-*-{os.getpid()}-0"))
    assert not sessions_of(os.getpid())


def sessions_of(job: int) -> dict[int, str]:
    """The processes that use the job's temporary folder: their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"/tmp/cdgen-{os.getuid()}-{job}-" in line:
            found[int(entry.parent.name)] = line
    return found


STOPS_HALFWAY = """
import os, pathlib, runpy, signal, sys
from cdgen.builders.ray.crew import RayCrew
honest = RayCrew.submit
def submit(crew, worker, job):
    if job.number == 2 and os.environ["SLURM_RESTART_COUNT"] == "0":
        pathlib.Path("halfway").touch()
        signal.pause()
    honest(crew, worker, job)
RayCrew.submit = submit
runpy.run_module("cdgen", run_name="__main__")
"""
"""cdgen, whose driver gives out its third job only after the job was requeued. A worker has two at once."""


def end(process: "subprocess.Popen[str]", slurm: Path, sent: signal.Signals) -> None:
    """As Slurm ends a job: a word to the batch script; or, when that was not heeded, all of its processes at once."""
    if sent == signal.SIGTERM:
        process.send_signal(sent)
        return
    os.killpg(process.pid, sent)
    for task in (slurm / "steps").read_text().split():
        with_children(int(task))
    while left := sessions_of(os.getpid()):
        for pid in left:
            kill(pid, sent)
        time.sleep(0.05)


@pytest.fixture
def no_trace() -> Iterator[None]:
    """What a job that was killed leaves on its node."""
    yield
    for path in Path("/tmp").glob(f"cdgen-{os.getuid()}-{os.getpid()}-*"):
        shutil.rmtree(path)


@pytest.mark.usefixtures("no_trace")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGTERM, id="told"),
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.soak),
    ],
)
def test_a_job_whose_time_is_up_in_the_middle_of_decoding_is_queued_again_and_goes_on(
    submit: Submit, tmp_path: Path, built: tuple[Path, Path, Report], sent: signal.Signals
) -> None:
    """Slurm signals the batch script: build and cluster end, the job is requeued; then it makes what is missing.

    One that is killed without a word cannot requeue itself; begun again, it goes on all the same.
    """
    home = at_home(tmp_path, built)
    one = {"SLURM_JOB_NODELIST": "127.0.0.1", "CDGEN_CACHE": str(built[1].parent / "cache")}
    process = submit(STOPS_HALFWAY, SLURM_RESTART_COUNT="0", **one)
    while not (home / "halfway").exists() and process.poll() is None:
        time.sleep(0.05)

    end(process, tmp_path / "slurm", sent)
    status = process.wait(240)

    log, requeued = (tmp_path / "log").read_text(), tmp_path / "slurm/requeued"
    if sent == signal.SIGTERM:
        assert status == sent, log  # so Ray ends a driver
        assert "SIGTERM received" not in log  # its C part would print a stack, and abort after 3 s
        assert requeued.read_text().split() == [str(os.getpid())]
        assert "told to stop" in log
    else:
        assert status == -sent and not requeued.exists()
    assert not sessions_of(os.getpid())
    out = home / "shards/recipe"
    kept = [str(one["name"]) for one in events(out, "shard")]
    assert 1 <= len(kept) < 3 and not (out / "manifest.json").exists()

    status = submit(STOPS_HALFWAY, SLURM_RESTART_COUNT="1", **one).wait(500)

    assert status == 0, (tmp_path / "log").read_text()
    assert hashes(out) == hashes(built[1])
    assert [one["shards"] for one in events(out, "plan")] == [3, 3]
    done: Any = events(out, "plan")[1]["done"]
    assert done >= len(kept)  # a worker may deliver after the driver is gone
    names = [str(one["name"]) for one in events(out, "shard")]
    assert len(set(names)) == len(names)
