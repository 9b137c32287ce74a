"""A worker of a build, without Ray: what it says of the shards that it makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pretend_engine import Opener, mark

from cdgen import __version__
from cdgen.builders.fetch import source_of
from cdgen.builders.hand import Excuse, Hand, Order
from cdgen.builders.jobs import Job, jobs
from cdgen.builders.numeric_class import decoding_class
from cdgen.builders.prefixes import Prefix, read_prefixes
from cdgen.builders.preflight import Look
from cdgen.builders.report import Report
from cdgen.builders.run import open_build
from cdgen.builders.stages import prefix_table
from cdgen.builders.worker import Context
from cdgen.recipes.load import load_recipe
from cdgen.storage import Receipt
from cdgen.storage.places import Folder
from cdgen.text.tokenizer import Tokenizer

Work = tuple[Hand, Job, Sequence[Prefix]]


@pytest.fixture
def work(built: tuple[Path, Path, Report], tmp_path: Path) -> Work:
    """(a worker whose driver is a machine of another class, the build's first job, its prefixes)."""
    recipe, out, _ = built
    known = open_build(load_recipe(recipe), out, out.parent / "cache")
    prefixes = read_prefixes(prefix_table(out, known.digests), known.recipe.generate).kept
    first = next(jobs(len(prefixes), known.recipe.generate, decode_digest=known.digests.decode))
    model, orders = tmp_path / "model", tmp_path / "orders"
    model.mkdir()
    orders.mkdir()
    (model / "config.json").write_text("{}")
    pretend: Any = Opener(orders)
    order = Order(
        recipe=known.recipe,
        context=Context(
            out=tmp_path / "out",
            generate=known.recipe.generate,
            digests=known.digests,
            tokenizer=Tokenizer.load(out / "tokenizer"),
            prefixes=(),
            numeric_class={"device": "an abacus"},
        ),
        expert=source_of(model),
        amateur=None,
        further=(),
        place=Folder(tmp_path / "out"),
        cache=tmp_path / "cache",
        open_engine=pretend,
    )
    hand = Hand(__version__, known.recipe)
    hand.load(order, {})
    return hand, first, prefixes[first.first : first.last]


def test_a_receipt_names_the_class_of_the_machine_that_decoded(work: Work, tmp_path: Path) -> None:
    """The driver decodes nothing: what it is has no place in a shard's provenance."""
    hand, job, prefixes = work

    receipt = hand.do(job, prefixes)

    assert isinstance(receipt, Receipt)
    assert receipt.numeric_class == decoding_class(hand._recipe)
    assert receipt.numeric_class == hand.hello().numeric_class
    assert Folder(tmp_path / "out").receipts() == {job.shard: receipt}


def test_a_worker_says_why_it_did_not_deliver_a_job(work: Work, tmp_path: Path) -> None:
    """An error, too little memory, a place that cannot be written: each under its own name, none raised."""
    hand, job, prefixes = work
    name = mark(prefixes[0].ids)
    for order in ("fail", "memory"):
        (tmp_path / f"orders/once-{order}-{name}").touch()
    (tmp_path / "out").write_text("a file is in the way")

    told = [hand.do(job, prefixes) for _ in range(3)]

    assert [one.kind for one in told if isinstance(one, Excuse)] == ["error", "memory", "storage"]
    assert hand.report()[0] == {}


def test_a_worker_says_why_it_could_not_look(work: Work) -> None:
    """Its engine only pretends, so there is nothing to look at; the driver hears of it, and no call fails."""
    hand, _, prefixes = work

    told = hand.look(Look(prefixes[:1], 1, prefixes[0].ids[None]))

    assert isinstance(told, Excuse) and told.kind == "error"
    assert "PretendEngine" in told.why and "\n" not in told.why
