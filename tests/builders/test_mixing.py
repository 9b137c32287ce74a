"""Mixes of real builds: sizes, repeats, other corpora, filters."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from kitchen import FILTERS, PLAIN, Kitchen, also_line, changed, hashes, keys, tree
from small import SMALL_RECIPE

import cdgen
from cdgen import open_corpus
from cdgen.builders.remix import mix
from cdgen.builders.report import Report
from cdgen.builders.trace import replay
from cdgen.errors import BuildError, UsageError
from cdgen.reports.summary import build_text
from cdgen.shards.manifest import read_manifest
from cdgen.shards.sample import split_mixed
from cdgen.shards.verdicts import verdicts_name
from cdgen.shards.verify import verify

# ---- sizes and repeats ----


def test_synthetic_once_uses_every_synthetic_sample_once(kitchen: Kitchen) -> None:
    """The real text is repeated as far as that needs."""
    out, report = kitchen.build(
        "once", changed("mix: {synthetic: 0.3, size: synthetic_once, repeat: allow}")
    )

    mixed = keys(out, "mixed")
    assert sorted(key for key in mixed if key.startswith("s")) == sorted(keys(out, "synthetic"))
    assert report.parts[0].num_passes > 1 and report.parts[1].num_passes == 1
    assert verify(out).problems == ()


def test_repeats_are_named_counted_and_copied(kitchen: Kitchen) -> None:
    """Every repeat is the sample again with -p2, -p3, … and the summary says how often."""
    out, report = kitchen.build(
        "repeats", changed("mix: {synthetic: 0.6, size: 40000, repeat: allow, seed: 42}")
    )

    corpus = open_corpus(out)
    sources = {s.key: s for kind in ("real", "synthetic") for s in corpus.samples(kind)}
    uses: dict[str, list[int]] = {}
    for sample in corpus.samples("mixed"):
        first, _, use = split_mixed(sample.key)
        uses.setdefault(first, []).append(use)
        assert (sample.text, sample.meta) == (sources[first].text, sources[first].meta)
    assert all(found == list(range(1, len(found) + 1)) for found in uses.values())
    passes = report.parts[1].num_passes
    assert max(len(found) for key, found in uses.items() if key.startswith("s")) == passes > 1
    assert f"{passes} passes" in build_text(report)
    assert 40000 <= report.num_mixed_tokens < 40000 + 400
    assert verify(out).problems == ()


def test_a_mix_that_is_not_written_is_still_counted(kitchen: Kitchen) -> None:
    """materialize: false, counted in documents."""
    out, report = kitchen.build(
        "unwritten", changed("mix: {synthetic: 0.25, unit: documents, materialize: false}")
    )

    manifest = read_manifest(out)
    assert not list(out.glob("data/mixed/*")) and "mixed-train" not in manifest.totals
    assert manifest.mix and manifest.mix.unit == "documents"
    assert [part.num_documents for part in manifest.mix.parts][1] * 3 == pytest.approx(
        report.num_real_documents, abs=3
    )
    assert "not written" in build_text(report)
    assert verify(out).problems == ()


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("mix: {synthetic: 0.3, size: 10000}", 3000),
        ("mix: {synthetic: 0.2, also: [{corpus: plain, share: 0.1}], size: 10000}", 2000),
        ("mix: {synthetic: 0.3, size: 100, unit: documents}", 30 * 56),
    ],
)
def test_a_plan_counts_what_any_size_needs(kitchen: Kitchen, line: str, needed: int) -> None:
    """In tokens: of documents, as many as a row has."""
    recipe = kitchen.home / "planned.yaml"
    recipe.write_text(SMALL_RECIPE.replace(PLAIN, line), encoding="utf-8")

    planned = cdgen.plan(recipe, kitchen.home / "planned", cache=kitchen.home / "cache")

    assert (planned.num_needed_tokens, planned.num_missing_prefixes) == (needed, 0)


def test_too_short_a_mix_leads_to_repeats(kitchen: Kitchen) -> None:
    """The message names the field that would allow them."""
    with pytest.raises(BuildError, match=r"needs .* real tokens, .*set mix.repeat: allow"):
        kitchen.build("short", changed("mix: {synthetic: 0.1, size: 200000}"))


# ---- other corpora ----


@pytest.fixture(scope="module")
def both(kitchen: Kitchen) -> tuple[Path, Report]:
    """20 % of cd and 10 % of plain."""
    return kitchen.build("both", also_line(0.1))


def test_another_corpus_is_mixed_in_at_its_own_share(
    kitchen: Kitchen, both: tuple[Path, Report]
) -> None:
    """Exact in tokens for each; its shards are here too, and it is left as it was."""
    out, report = both
    manifest, other = read_manifest(out), read_manifest(kitchen.plain)
    tokens = np.array([s.meta.num_tokens for s in open_corpus(out).samples("mixed")])
    decodes = np.array([s.meta.decode for s in open_corpus(out).samples("mixed")])

    assert report.parts[2].source == f"also-{other.digests['decode'][:8]}"
    for part, decode in zip(report.parts[1:], (manifest, other), strict=True):
        mine = tokens * (decodes == decode.digests["decode"][:16])
        error = np.cumsum(mine) - part.nominal * np.cumsum(tokens)
        assert part.error_low <= error.min() and error.max() <= part.error_high
        assert mine.sum() == part.num_tokens > 0
    assert hashes(kitchen.plain, "synthetic").items() <= hashes(out, "synthetic").items()
    assert list(verify(out).problems) == list(verify(kitchen.plain).problems) == []


def test_two_corpora_of_one_text_share_keys_and_are_told_apart(
    kitchen: Kitchen, both: tuple[Path, Report]
) -> None:
    """The same prefixes and completions: the other corpus's samples add -d and its decode digest."""
    mixed = keys(both[0], "mixed")
    short = read_manifest(kitchen.plain).digests["decode"][:8]
    other = {split_mixed(key)[0] for key in mixed if split_mixed(key)[1]}

    assert set(keys(kitchen.cd, "synthetic")) & set(keys(kitchen.plain, "synthetic"))
    assert len(set(mixed)) == len(mixed)
    assert {split_mixed(key)[1] for key in mixed} == {"", short}
    assert other <= set(keys(kitchen.plain, "synthetic"))


def test_a_replay_draws_this_corpus_s_own_rows_again(both: tuple[Path, Report]) -> None:
    """Not those of the other corpus, which has the same keys and other models."""
    replayed = replay(both[0], 12)

    assert replayed.num_rows >= 12 and replayed.agreement == 1.0


def test_verification_accepts_exactly_the_corpora_of_the_manifest(
    both: tuple[Path, Report], tmp_path: Path
) -> None:
    """Without its entry, with another one, or with a shard less, every sample of it is a fault."""
    out = tmp_path / "both"
    shutil.copytree(both[0], out)
    path = out / "manifest.json"
    whole = json.loads(path.read_text(encoding="utf-8"))

    def problems(change: dict[str, object]) -> str:
        path.write_text(json.dumps({**whole, **change}), encoding="utf-8")
        return "\n".join(map(str, verify(out).problems))

    entry = whole["also"][0]
    assert "decode is" in problems({"also": []})
    assert "does not belong to the decode digest" in problems({"also": []})
    assert "are not those of its digest" in problems({"also": [{**entry, "corpus": "0" * 64}]})
    wrong = {**entry, "digests": {**entry["digests"], "expert": "0" * 64}}
    assert "expert is" in problems({"also": [wrong]})
    assert "origin 'tales' is not a source" in problems({"also": [{**entry, "sources": []}]})
    parts = [dict(part, num_passes=part["num_passes"] + 1) for part in whole["mix"]["parts"]]
    assert "in 1 passes; " in problems({"mix": {**whole["mix"], "parts": parts}})
    assert problems({}) == ""


def test_the_mix_digest_goes_by_what_the_other_corpus_decoded(
    kitchen: Kitchen, both: tuple[Path, Report], tmp_path: Path
) -> None:
    """Neither its place nor its own mix is in it; another decoding is another mix."""
    moved = mix(kitchen.plain, tmp_path / "moved", synthetic=0.1)
    again, _ = kitchen.build("elsewhere", also_line(0.1, str(moved.folder)))

    assert hashes(again, "mixed") == hashes(both[0], "mixed")


def test_other_corpora_that_cannot_be_mixed_are_refused_before_any_work(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    """Each by one line with the place in the recipe; nothing is written."""
    other, _ = kitchen.build("other-tokens", ("vocab_size: 400", "vocab_size: 401"))
    cases = {
        "no-such": "no-such is not a finished corpus.*paths are relative to the recipe",
        str(other): r"has another tokenizer \(.*build both with one tokenizer",
        str(kitchen.cd): "holds the very text that this recipe decodes",
        f"plain, share: 0.1}}, {{corpus: {kitchen.plain}": "holds the same synthetic text as one",
    }
    for corpus, message in cases.items():
        with pytest.raises(
            UsageError, match=rf"refused.yaml:\d+:\d+: mix.also\[\d\].corpus: .*{message}"
        ):
            kitchen.build("refused", also_line(0.1, corpus))
    assert not (kitchen.home / "refused").exists()


def test_a_corpus_that_continues_eval_text_is_refused(kitchen: Kitchen) -> None:
    """What measures the expert's perplexity must not come back as somebody's prefix."""
    _, spec = "seed: 42}\ntokenizer", "seed: 7}\ntokenizer: {path: cd/tokenizer}"
    sides, given = ("seed: 42}\ntokenizer: {train: {algorithm: bpe, vocab_size: 400}}", spec)
    kitchen.build("otherwise", (sides, given))

    with pytest.raises(BuildError, match=r"continues \d+ documents of this corpus's eval split"):
        kitchen.build("leak", also_line(0.1, "otherwise"))


def test_a_damaged_shard_of_the_other_corpus_is_not_brought_in(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    """Its hash is checked before it is linked or copied."""
    shutil.copytree(kitchen.plain, tmp_path / "damaged")
    victim = min((tmp_path / "damaged").glob("data/synthetic/*.tar"))
    data = bytearray(victim.read_bytes())
    data[700] ^= 1
    victim.write_bytes(data)

    with pytest.raises(BuildError, match=r"is not the file that its manifest names"):
        kitchen.build("damaged", also_line(0.1, str(tmp_path / "damaged")))


# ---- filters ----


def test_filters_keep_samples_out_of_the_mix_and_say_why(filtered: tuple[Path, Report]) -> None:
    """Verdicts on every synthetic sample; what is mixed was kept; the counts are in manifest and summary."""
    out, report = filtered
    manifest = read_manifest(out)
    table = pq.read_table(out / "index" / verdicts_name(manifest.digests["mix"]))
    rows = {row["key"]: row for row in table.to_pylist()}

    assert len(rows) == len(keys(out, "synthetic"))
    assert all(rows[key]["kept"] for key in keys(out, "mixed") if key.startswith("s"))
    reasons = [row["reason"] for row in rows.values()]
    for reason in ("min_tokens", "max_repetition", "exact_dedup"):
        assert manifest.dropped[reason] == reasons.count(reason)
    assert manifest.dropped["min_tokens"] > 0 and manifest.dropped["max_repetition"] > 0
    assert f"{manifest.dropped['min_tokens']} min_tokens" in build_text(report)
    assert verify(out).problems == ()


def test_a_repeated_or_resumed_filtered_build_gives_the_same_bytes(
    kitchen: Kitchen, filtered: tuple[Path, Report]
) -> None:
    """A lost file of verdicts is made again; one that is damaged is not believed."""
    out, report = filtered
    before = tree(out / "index") | tree(out / "data")
    path = next(out.glob("index/verdicts-*"))
    old, new = also_line(0.1)
    for spoil in (path.unlink, lambda: path.write_bytes(path.read_bytes()[:99])):
        spoil()
        next(out.glob("data/mixed/*.tar")).unlink()
        _, again = kitchen.build("filtered", (old, FILTERS + new))
        assert again.manifest_digest == report.manifest_digest
        assert tree(out / "index") | tree(out / "data") == before


def test_verdicts_that_are_not_true_are_found(
    filtered: tuple[Path, Report], tmp_path: Path
) -> None:
    """Verification makes every verdict again from the samples."""
    out = tmp_path / "filtered"
    shutil.copytree(filtered[0], out)
    path = next(out.glob("index/verdicts-*"))
    table = pq.read_table(path)
    rows = table.to_pylist()
    at = next(i for i, row in enumerate(rows) if row["reason"] == "max_repetition")
    rows[at].update(kept=True, reason="", repetition=0.0)
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)

    found = "\n".join(map(str, verify(out).problems))
    assert (
        f"{rows[at]['key']}: the verdict differs from the sample in kept, reason, repetition"
        in found
    )
    assert "its size or SHA-256 is not the manifest's" in found
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    manifest["filters"]["min_tokens"] = 30
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    report = verify(out)
    assert verify(out, workers=2) == report
    found = "\n".join(map(str, report.problems))
    assert "was dropped (min_tokens), but is in the mixed shards" in found
    assert "min_tokens drops" in found


def test_filters_decode_nothing_again_and_old_verdicts_are_moved_aside(kitchen: Kitchen) -> None:
    """Only the mix digest changes."""
    kitchen.with_decoded("aside")
    line = FILTERS + PLAIN
    out, _ = kitchen.build("aside", changed(line))
    first = next(out.glob("index/verdicts-*")).name
    kitchen.build("aside", changed(line.replace("24", "25")))

    assert hashes(out, "synthetic") == hashes(kitchen.cd, "synthetic")
    assert [path.name for path in out.glob("work/old/index/verdicts-*")] == [first]
    assert verify(out).problems == ()


def test_filters_that_leave_too_little_are_named(kitchen: Kitchen) -> None:
    """How many prefixes are missing is counted in what one prefix yields after the filters."""
    with pytest.raises(BuildError, match=r"after the filters: about \d+ more prefixes are missing"):
        kitchen.build(
            "severe", changed("filters: {min_tokens: 56}\n" + PLAIN.replace("0.3", "0.36"))
        )
