"""The numbers of a report against slow counts over the samples themselves, and how they are printed."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cdgen import open_corpus
from cdgen.builders.trace import Step
from cdgen.errors import BuildError, UsageError
from cdgen.mixing.copying import copying
from cdgen.reports.built import EVENTS_OF_A_BUILD, how_built
from cdgen.reports.diversity import distinct
from cdgen.reports.plots import needs_matplotlib
from cdgen.reports.selection import groups, read_text, spread
from cdgen.reports.statistics import Statistics, _up_to_a_word, by_position, statistics
from cdgen.reports.statistics_text import statistics_text, table_text, tables
from cdgen.shards.layout import shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.repetition import repetition
from cdgen.shards.sample import Sample

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"


@pytest.fixture(scope="module")
def found() -> Statistics:
    return statistics(open_corpus(GOLDEN))


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def samples(kind: str) -> list[Sample]:
    return list(open_corpus(GOLDEN).samples(kind))


def drawn(sample: Sample) -> np.ndarray:
    return sample.ids[sample.meta.prefix_tokens :]


def test_counts_are_those_of_the_samples(found: Statistics) -> None:
    """Lengths with their quantiles and histogram, and repetition, sample by sample."""
    assert [one.label for one in found.sources] == ["real", "synthetic"]
    for one in found.sources:
        every = samples(one.label)
        lengths = sorted(len(sample.ids) for sample in every)
        repeated = [repetition(s.ids, np.array([len(s.ids)]))[0] for s in every]

        assert (one.num_documents, one.documents_read) == (len(every), len(every))
        assert one.num_tokens == one.tokens_read == sum(lengths)
        assert one.lengths.mean == pytest.approx(sum(lengths) / len(lengths))
        wanted = [lengths[max(-(-len(lengths) * q // 100) - 1, 0)] for q in (0, 10, 50, 90, 100)]
        assert list(one.lengths.quantiles) == wanted
        assert sum(one.lengths.counts) == len(every)
        assert one.repeated.mean == pytest.approx(np.mean(repeated))


def test_probabilities_are_means_over_drawn_tokens(found: Statistics) -> None:
    """A long document counts for more; points are documents."""
    every = samples("synthetic")
    weights = [len(drawn(sample)) for sample in every]
    drawing = found.sources[1].drawing
    assert drawing is not None and found.sources[0].drawing is None

    for name in ("logp_expert", "logp_amateur", "head_of_one_share"):
        values = [
            getattr(s.meta, name if name.startswith("head") else f"mean_{name}") for s in every
        ]
        assert getattr(drawing, name) == pytest.approx(np.average(values, weights=weights))
    assert drawing.heads.mean == pytest.approx(np.mean([s.meta.mean_head_size for s in every]))
    assert drawing.points == tuple(
        (s.meta.mean_logp_amateur, s.meta.mean_logp_expert) for s in every
    )


def test_sources_are_compared_at_the_same_size(found: Statistics) -> None:
    """As many tokens of each as the smaller has, without prefixes: all of the smaller one's."""
    every = samples("synthetic")
    ids = [drawn(sample) for sample in every]

    assert found.diversity_tokens == sum(map(len, ids))
    whole = distinct(np.concatenate(ids), np.array([len(one) for one in ids]))
    assert found.sources[1].distinct == pytest.approx(whole)


def test_copying_is_of_synthetic_text_against_real_train_text(found: Statistics) -> None:
    corpus = open_corpus(GOLDEN)
    mapped = {
        kind: [MappedShard(shard_path(GOLDEN, s.name)) for s in corpus.shards(kind)]
        for kind in ("real", "synthetic")
    }
    assert found.copied == copying(mapped["synthetic"], mapped["real"])


def test_shown_documents_are_whole_and_have_their_provenance(found: Statistics) -> None:
    """Prefix and text together are the sample's text; which ones are shown does not change."""
    every = {s.key: s for kind in ("real", "synthetic") for s in samples(kind)}
    assert len(found.samples) == 8
    for shown in found.samples:
        sample = every[shown.key]
        assert shown.meta == sample.meta
        assert (shown.prefix + shown.text == sample.text) or shown.is_cut
        assert bool(shown.prefix) == bool(sample.meta.prefix_tokens)
    assert statistics(open_corpus(GOLDEN)) == found


@pytest.mark.parametrize(
    ("cut", "shown"),
    [
        ("one two thr", "one two"),
        ("one two ", "one two"),
        ("a" * 40, "a" * 40),
        ("a bbbbbbbbbbbbbb", "a bbbbbbbbbbbbbb"),
        ("\u4e00" * 20, "\u4e00" * 20),
    ],
)
def test_a_long_document_ends_with_a_word_where_there_are_words(cut: str, shown: str) -> None:
    assert _up_to_a_word(cut) == shown


def test_what_is_not_read_is_said() -> None:
    """Of large corpora evenly spread shards are read, and the notes say how many."""
    entries = open_corpus(GOLDEN).shards("mixed")
    assert spread(entries, 100, 100) == tuple(entries)
    assert spread(entries, 100, 50) == tuple(entries[::2])
    assert len(spread(entries, 100, 1)) == 1
    found = statistics(open_corpus(GOLDEN))
    part = dataclasses.replace(found.sources[0], tokens_read=7, documents_read=1)
    notes = list(dataclasses.replace(found, sources=(part, *found.sources[1:])).notes())

    assert any(note.startswith("real: 1 of 11 documents") for note in notes)
    assert any(note.startswith("real: 7 of 1,337 tokens") for note in notes)
    assert any("not read is not counted" in note for note in notes)
    assert any(note.startswith("contrast by position: left out") for note in notes)


def test_text_of_some_shards_is_that_of_their_samples() -> None:
    """Also where there are several shards."""
    corpus = open_corpus(GOLDEN)
    for group in groups(corpus.manifest):
        text = read_text(corpus, group.shards)
        every = samples(group.label)
        for number, sample in enumerate(every):
            assert text.keys[number] == sample.key
            assert np.array_equal(text.drawn(number), drawn(sample))
        assert sorted(text.shuffled().tolist()) == list(range(len(every)))


def test_positions_are_means_over_the_rows_that_are_so_long() -> None:
    def step(expert: float, amateur: float | None) -> Step:
        return Step(token="x", logp_expert=expert, logp_amateur=amateur, head_size=2, plain="x")

    found = by_position([[step(-1.0, -2.0), step(-3.0, -3.5)], [step(-2.0, -4.0)]])

    assert [(p.num_rows, p.logp_expert, p.logp_amateur) for p in found] == [
        (2, -1.5, -3.0),
        (1, -3.0, -3.5),
    ]
    assert by_position([[step(-1.0, None)]])[0].logp_amateur is None
    assert by_position([]) == ()


def test_a_build_is_timed_in_the_stages_that_ended() -> None:
    """What an interruption cut off is counted as decoded, and not in the speed."""
    events = [
        {"time": 10.0, "event": "build"}, {"time": 11.0, "event": "start", "stage": "decode"},
        {"time": 12.0, "event": "shard", "tokens": 70}, {"time": 20.0, "event": "build"},
        {"time": 21.0, "event": "start", "stage": "decode"}, {"time": 25.0, "event": "shard", "tokens": 30},
        {"time": 26.0, "event": "end", "stage": "decode"}, {"time": 27.0, "event": "built"},
    ]  # fmt: skip
    built = how_built(events)
    assert built is not None

    assert built.num_begun == 2 and built.stages == {"decode": 5.0}
    assert [(one.seconds, one.num_tokens) for one in built.decoded] == [(2.0, 70), (15.0, 100)]
    assert built.tokens_per_s == 6.0
    others = [{"time": 12.0, "event": name} for name in ("worker", "drawn", "stand")]
    assert not {other["event"] for other in others} & set(EVENTS_OF_A_BUILD)
    assert how_built([*events[:3], *others, *events[3:]]) == built
    assert how_built(one for one in events if one["event"] in EVENTS_OF_A_BUILD) == built
    assert how_built([]) is None


def test_tables_fit_and_say_the_numbers(found: Statistics) -> None:
    """Every row has as many cells as the head; a model cannot steer the terminal."""
    for table in tables(found):
        assert all(len(row) == len(table.head) for row in table.rows)
        assert all(cell in table_text(table) for row in table.rows for cell in row)
    hostile = dataclasses.replace(found.samples[0], text="\x1b[31mred\x07", prefix="\r")
    text = statistics_text(dataclasses.replace(found, samples=(hostile,)))
    assert "\x1b" not in text and "\x07" not in text and "[31mred" in text


def test_the_verb_prints_json_and_writes_the_page(tmp_path: Path) -> None:
    """Data on stdout, where the page went on stderr."""
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'cdgen[report]'")
    page = tmp_path / "new/report.html"
    command = ["stats", str(GOLDEN), "--json", "--samples", "1", "--html", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "cdgen", *command], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)

    assert facts["manifest_digest"] == open_corpus(GOLDEN).manifest.digest
    assert len(facts["samples"]) == 2 and facts["notes"]
    assert done.stderr == f"cdgen: wrote {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "c")
    entry = open_corpus(GOLDEN).shards("synthetic")[0]
    shard_path(tmp_path / "c", entry.name).unlink()

    with pytest.raises(BuildError, match=entry.name):
        statistics(open_corpus(tmp_path / "c"))


def test_an_address_has_the_same_report(
    found: Statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus on a web server, whose shards are brought here first."""
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path))
    handler = functools.partial(Quiet, directory=str(GOLDEN.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/{GOLDEN.name}"
            assert statistics(open_corpus(address)) == found
        finally:
            server.shutdown()


def test_plots_without_matplotlib_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """That says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(UsageError, match=r"pip install 'cdgen\[report\]'"):
        needs_matplotlib()
