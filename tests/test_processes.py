"""Processes beside this one: jobs in order, errors, deaths, and no child that outlives its parent."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_beside import WAIT_S, OddError, asleep, chatter, die_once, fail, fail_oddly, whose

from cdgen.errors import BuildError
from cdgen.processes import Processes, processors


@pytest.fixture(autouse=True)
def the_jobs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the children."""
    path = filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def ended(pid: int) -> bool:
    """Whether a process is gone, within the time there is."""
    for _ in range(int(WAIT_S / 0.05)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def written(file: Path) -> str:
    """What a file says, once it is there."""
    for _ in range(int(WAIT_S / 0.05)):
        if file.is_file() and file.read_text():
            return file.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{file} was not written")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_results_come_in_order_from_other_processes(number: int) -> None:
    with Processes(number) as beside:
        found = list(beside.map(whose, ((n,) for n in range(20))))

    assert [n for n, _ in found] == list(range(20))
    others = {pid for _, pid in found} - {os.getpid()}
    assert 1 <= len(others) <= number if number else not others


def test_few_jobs_wait_at_a_time() -> None:
    """Their arguments may be large: they are made when they are needed."""
    made = []

    def arguments() -> Iterator[tuple[int]]:
        for n in range(50):
            made.append(n)
            yield (n,)

    with Processes(1) as beside:
        results = beside.map(whose, arguments())
        next(results)
        assert len(made) <= 4


def test_a_job_whose_process_dies_is_done_here_and_the_next_one_in_a_new_process(
    tmp_path: Path,
) -> None:
    with Processes(1) as beside:
        first = beside.submit(die_once, tmp_path / "died").result()
        _, second = beside.submit(whose, 1).result()

    assert first == os.getpid() != second


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    """With its own kind and words, whether it can be sent or not; the process goes on."""
    with Processes(1) as beside:
        _, pid = beside.submit(whose, 0).result()
        with pytest.raises(BuildError, match="shard 7 is damaged"):
            beside.submit(fail, "shard 7 is damaged").result()
        assert beside.submit(whose, 0).result()[1] == pid
        with pytest.raises(OddError, match="one"):
            beside.submit(fail_oddly).result()
    with Processes(0) as here, pytest.raises(BuildError, match="shard 7"):
        here.submit(fail, "shard 7").result()


def test_what_a_job_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Processes(1) as beside:
        assert beside.submit(chatter).result() == ""
    out, err = capfd.readouterr()
    assert not out and "a library that talks" in err and "descriptor too" in err


def test_the_end_does_not_wait_for_jobs(tmp_path: Path) -> None:
    """Not for one that is done, and not for those that wait."""
    with Processes(1) as beside:
        beside.submit(asleep, tmp_path / "one")
        waiting = beside.submit(asleep, tmp_path / "two")
        pid = int(written(tmp_path / "one"))

    assert ended(pid) and waiting.cancelled() and not (tmp_path / "two").exists()


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from jobs_beside import asleep, whose
from cdgen.processes import Processes
beside = Processes(1)
print(beside.submit(whose, 3).result()[0])  # no "if __name__": not every script has one
beside.submit({job}, Path(sys.argv[2]))
Path(sys.argv[2] + ".begun").touch()
time.sleep(60)
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A child that waits for a job ends at once; one at work ends with its job."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(job="whose"))
    here = str(Path(__file__).parent)
    path = os.pathsep.join((here, str(Path(__file__).parents[1])))
    parent = subprocess.Popen(
        [sys.executable, str(script), here, str(tmp_path / "file")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        for _ in range(int(WAIT_S / 0.05)):
            if (tmp_path / "file.begun").exists():
                break
            time.sleep(0.05)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        found = {int(pid) for task in children.parents[1].iterdir()
                 for pid in (task / "children").read_text().split()}  # fmt: skip
    finally:
        parent.kill()
        out, _ = parent.communicate()

    assert out == b"3\n" and len(found) == 1
    assert all(ended(pid) for pid in found)


def test_there_is_a_processor() -> None:
    assert 1 <= processors() <= (os.cpu_count() or 1)
