"""A sweep as a list of jobs: an order that can be run, and digests that change where something changes."""

from collections.abc import Sequence

import pytest

from cdgen.builders.sweep_plan import Job, jobs, selected
from cdgen.errors import UsageError
from cdgen.recipes.runs import Run
from cdgen.recipes.sweeps import Sweep

CORPORA = {"plain": "a" * 64, "cd": "b" * 64}


def sweep(**changes: object) -> Sweep:
    said = {
        "version": 1,
        "name": "study",
        "corpora": [
            {"name": "plain", "recipe": "r.yaml"},
            {"name": "cd", "recipe": "r.yaml"},
            {
                "name": "second",
                "recipe": "r.yaml",
                "models": {"expert.path": {"run": "cd-1", "step": 4}},
                "also": [{"corpus": "plain", "share": 0.1}],
            },
        ],
        "matrix": {
            "run": "run.yaml",
            "seeds": [1, 2],
            "conditions": [
                {"name": "baseline", "corpus": "plain"},
                {"name": "second", "corpus": "second"},
                {"name": "cd", "corpus": "cd"},
            ],
        },
        "evaluate": {"tasks": ["blimp"], "limit": 4},
        "compare": {"baseline": "baseline"},
        **changes,
    }
    return Sweep.model_validate(said)


def planned(study: Sweep, corpora: dict[str, str] = CORPORA, steps: int = 8) -> dict[str, Job]:
    runs = {
        name: Run.model_validate(
            {
                "version": 1,
                "name": name,
                "corpus": "x",
                "train": {"seed": seed, "steps": steps, "warmup_steps": 1},
            }
        )
        for _, seed, name in study.runs()
    }
    return {job.name: job for job in jobs(study, corpora, runs)}


def changed(before: dict[str, Job], after: dict[str, Job]) -> set[str]:
    assert before.keys() == after.keys()
    return {name.partition(" ")[0] for name in before if before[name].digest != after[name].digest}


def test_every_job_comes_once_and_after_what_it_needs() -> None:
    every = list(planned(sweep()).values())

    seen: set[str] = set()
    for job in every:
        assert set(job.needs) <= seen, job
        assert job.name not in seen
        seen.add(job.name)
    assert {f"{kind} {name}" for _, _, name in sweep().runs() for kind in ("train", "eval")} <= seen
    assert every[-1].kind == "compare" and len(every[-1].needs) == 6


def test_all_of_a_seed_comes_before_the_next_seed() -> None:
    seeds = [job.cell[-1] for job in planned(sweep()).values() if job.kind == "eval"]

    assert seeds == ["1", "1", "1", "2", "2", "2"]


def test_a_digest_is_known_once_everything_it_reads_is() -> None:
    first, later = planned(sweep()), planned(sweep(), {**CORPORA, "second": "c" * 64})

    unknown = {name for name, job in first.items() if not job.digest}
    assert unknown == {
        *("build second", "train second-1", "train second-2", "eval second-1", "eval second-2"),
        "compare study",
    }
    assert all(job.digest for job in later.values())
    assert len({job.digest for job in later.values()}) == len(later)


def test_a_change_reaches_what_reads_it_and_nothing_else() -> None:
    whole = {**CORPORA, "second": "c" * 64}
    before = planned(sweep(), whole)

    assert changed(before, planned(sweep(evaluate={"tasks": ["blimp"], "limit": 5}), whole)) == {
        "eval",
        "compare",
    }
    assert changed(before, planned(sweep(compare={"baseline": "cd"}), whole)) == {"compare"}
    assert changed(before, planned(sweep(), whole, steps=9)) == {"train", "eval", "compare"}
    assert (
        changed(
            before, planned(sweep(evaluate={"tasks": ["blimp"], "limit": 4, "data": "x"}), whole)
        )
        == set()
    )
    other = planned(sweep(), {**whole, "cd": "d" * 64})
    assert {name for name in before if before[name].digest != other[name].digest} == {
        *("build cd", "train cd-1", "train cd-2", "eval cd-1", "eval cd-2", "compare study")
    }


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["baseline-2"], ["build plain", "train baseline-2", "eval baseline-2"]),
        (["cd"], ["build cd", "train cd-1", "eval cd-1", "train cd-2", "eval cd-2"]),
        (["plain"], ["build plain"]),
        (["train baseline-1"], ["build plain", "train baseline-1"]),
        (
            ["second-1"],
            [
                "build plain",
                "build cd",
                "train cd-1",
                "build second",
                "train second-1",
                "eval second-1",
            ],
        ),
    ],
)
def test_a_piece_has_what_it_needs(only: Sequence[str], expected: list[str]) -> None:
    every = tuple(planned(sweep()).values())

    assert sorted(job.name for job in selected(every, tuple(only))) == sorted(expected)


def test_a_piece_that_is_not_there_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"--only baseline-3: the sweep has no such run.*baseline-1, baseline-2"
    ):
        selected(tuple(planned(sweep()).values()), ("baseline-3",))
