"""What the card of a corpus tells people: what it is, what it was made of and how, what it is not, how to use it."""

from collections.abc import Iterable, Sequence

from cdgen.recipes.schema import Recipe
from cdgen.shards.card_decoding import decoding_rows, is_contrastive, named_input
from cdgen.shards.licensing import followed_license
from cdgen.shards.lock import Input, Lock
from cdgen.shards.manifest import AlsoInfo, ContaminationInfo, Manifest, SourceInfo
from cdgen.shards.markdown import code, paragraphs, plain, table
from cdgen.shards.verdicts import REASONS

_PAPER = "[arXiv 2510.08245](https://arxiv.org/abs/2510.08245)"


def body(manifest: Manifest, recipe: Recipe, lock: Lock, kinds: Sequence[str]) -> str:
    """The card below its header: Markdown.

    Args:
        manifest, recipe, lock: of the corpus.
        kinds: of its shards, the default configuration first.
    """
    described = paragraphs(recipe.description)
    parts = [
        f"# {plain(manifest.name)}",
        described,
        _what(recipe),
        _section("Load it", _loading(kinds)),
        _section("What it holds", table(_KIND_HEAD, _kind_rows(manifest))),
        _section("Mix", _mix(manifest)),
        _section("Removed documents", _removed(manifest)),
        _section("Real text", table(_SOURCE_HEAD, _source_rows(manifest, recipe, lock))),
        _section("Decoding", _decoding(recipe, lock)),
        _section("Filters", _filters(manifest)),
        _section("Contamination", _contamination(manifest)),
        _section("Licence", _license(manifest, recipe)),
        _section("Limits", _limits(manifest)),
        _section("Rebuild this corpus", _rebuilding(recipe, lock)),
        _section("Citation", _citation(manifest)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _what(recipe: Recipe) -> str:
    how = f"by contrastive decoding ({_PAPER})" if is_contrastive(recipe) else "by language models"
    return (
        f"A corpus for pre-training language models: synthetic text, drawn {how}, and the real text that it continues. "
        "Every sample says in its `json` member which document it is of, and if it is synthetic, which models drew it, "
        "with which random key, and how probable they thought it. It was made with cdgen, and is read without."
    )


def _loading(kinds: Sequence[str]) -> str:
    return f"""\
With `datasets` (put this repository's name, or a folder that holds it, for `owner/name`):

```python
from datasets import load_dataset

corpus = load_dataset("owner/name", "{kinds[0]}", split="train", streaming=True)
```

The configurations are {", ".join(f"`{kind}`" for kind in kinds)}. With cdgen, as blocks of token ids in an order that \
is the same for any number of readers:

```python
import cdgen

corpus = cdgen.open_corpus("hf://datasets/owner/name")
for block in cdgen.stream(corpus, block=1024, seed=0):
    ...
```

The shards are plain tars: `webdataset` reads them too. A sample is a `.txt`, a `.json` (its provenance) and a `.npy` \
(its token ids, of the tokenizer in `tokenizer/`, with BOS and EOS where a trainer wants them)."""


_KIND_HEAD = ("part", "documents", "tokens", "tokens per document", "bytes of text", "shards")


def _kind_rows(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    for name, totals in sorted(manifest.totals.items()):
        documents, tokens = totals["num_samples"], totals["num_tokens"]
        mean = f"{tokens / documents:,.1f}" if documents else ""
        counts = (totals["num_text_bytes"], totals["num_shards"])
        yield code(name), f"{documents:,}", f"{tokens:,}", mean, *(f"{n:,}" for n in counts)


def _mix(manifest: Manifest) -> str:
    if manifest.mix is None:
        return ""
    mix = manifest.mix
    counted = "" if mix.unit == "tokens" else f" of {mix.unit}"
    head = (
        f"{mix.num_real_tokens:,} real and {mix.num_synthetic_tokens:,} synthetic tokens: "
        f"{mix.realised:.4%} synthetic{counted}, {mix.nominal:.4%} asked for."
    )
    return "\n\n".join([head, *_mix_notes(manifest)])


def _mix_notes(manifest: Manifest) -> Iterable[str]:
    """What is not plain about a mix: repeats, text of other corpora."""
    parts = manifest.mix.parts if manifest.mix else ()
    if not any(shard.kind == "mixed" for shard in manifest.shards):
        yield "It is not written out: cdgen mixes the parts when it streams them, in the same order every time."
    for part in parts:
        if part.num_passes > 1:
            text = plain(part.source)
            yield f"Documents of the {text} text are used up to {part.num_passes} times."
    for also in manifest.also:
        share = next((part.realised for part in parts if part.source == also.label), 0.0)
        digest = code(also.digests.get("decode", "")[:16])
        yield f"{share:.4%} is text that the corpus {plain(also.name)} decoded ({digest})."


def _removed(manifest: Manifest) -> str:
    if manifest.removed is None:
        return ""
    count = len(manifest.removed.documents)
    named = "A document was" if count == 1 else f"{count:,} documents were"
    return (
        f"{named} taken out after the build, with all that was generated from their prefixes; the manifest names them. "
        "A build of `recipe.yaml` has them still."
    )


def _decoding(recipe: Recipe, lock: Lock) -> str:
    return (
        f"{table(('what', 'how'), decoding_rows(recipe, lock))}\n"
        "Whole hashes, and the versions of everything that took part, are in `recipe.lock.json`."
    )


_SOURCE_HEAD = ("source", "licence", "language", "train documents", "train tokens", "what it is")


def _source_rows(manifest: Manifest, recipe: Recipe, lock: Lock) -> Iterable[tuple[str, ...]]:
    languages = {source.name: source.language or "not said" for source in recipe.text.sources}
    for source in manifest.sources:
        counts = (f"{source.num_documents:,}", f"{source.num_tokens:,}")
        named = (plain(source.name), plain(source.license), languages.get(source.name, "not said"))
        yield *named, *counts, named_input(lock.sources.get(source.name, Input()))
    for also in manifest.also:
        yield from (_also_row(also, source) for source in also.sources)


def _also_row(also: AlsoInfo, source: SourceInfo) -> tuple[str, ...]:
    """Its real text is not here; it began documents that are."""
    of = f"began documents that the corpus {plain(also.name)} decoded"
    return plain(source.name), plain(source.license), "", "", "", of


def _filters(manifest: Manifest) -> str:
    filters = manifest.filters
    if filters is None:
        return "None: everything that was decoded may be in the mix, copies and repetitions too."
    rules = [
        f"Synthetic documents are left out of the mix if they have fewer than {filters.min_tokens:,} tokens",
        f"if more than {filters.max_repetition:.0%} of their tokens repeat earlier 4-grams",
    ]
    if filters.exact_dedup:
        rules.append("if their text is that of another document")
    if filters.contamination is not None and filters.contamination.action == "drop":
        rules.append("if they hold an item of an evaluation set")
    if filters.near_dedup is not None:
        rules.append(
            f"if they resemble another by {filters.near_dedup:.0%} of their runs of five words"
        )
    acting = {
        "contamination": filters.contamination is not None,
        "exact_dedup": filters.exact_dedup,
        "near_dedup": filters.near_dedup is not None,
    }
    reasons = [name for name in REASONS if acting.get(name, True)]
    dropped = ", ".join(f"{manifest.dropped.get(name, 0):,} by `{name}`" for name in reasons)
    return f"{', '.join(rules)}. Left out: {dropped}."


_CONTAMINATION_ACTIONS = {
    "drop": "Synthetic documents that hold an item are not in the mix.",
    "flag": "**Careful: these documents are in the mix.**",
    "keep": "These documents are in the mix.",
}


def _searched(manifest: Manifest) -> ContaminationInfo | None:
    return manifest.filters.contamination if manifest.filters else None


def _contamination(manifest: Manifest) -> str:
    """How much text holds items of evaluation sets."""
    searched = _searched(manifest)
    if searched is None:
        return "The text was not searched for evaluation sets."
    rows = (
        (plain(one.name), *(f"{n:,}" for n in (one.num_items, one.num_real, one.num_synthetic)))
        for one in searched.sets
    )
    head = ("evaluation set", "items", "real documents", "synthetic documents")
    action = _CONTAMINATION_ACTIONS.get(searched.action, "")
    return (
        f"Train documents that hold {searched.ngram} words in a row of an evaluation item, or a shorter item whole. "
        f"{action}\n\n{table(head, rows)}"
    )


def _license(manifest: Manifest, recipe: Recipe) -> str:
    follows = followed_license(recipe, manifest.also)
    why = "; ".join(plain(problem) for problem in manifest.license_problems)
    if not manifest.license:
        return f"It cannot be told what this corpus may be used under: {why or 'nothing says so'}."
    said = f"The whole: {plain(manifest.license)}."
    if not manifest.license_override:
        said += " It follows from the licences of the texts, and of the models and tokenizer where those were given."
    elif why:
        said += f" The recipe decides so; from its texts and models it could not be told: {why}."
    elif follows.license != manifest.license:
        said += (
            f" The recipe decides so; from its texts and models {plain(follows.license)} follows."
        )
    else:
        said += " The recipe says so, and it follows from its texts and models too."
    return f"{said} Every sample names the licence of the text that it is of, or that it continues."


def _limits(manifest: Manifest) -> str:
    limits = [
        "The synthetic text is machine-generated and was not read by people.",
        "It states things that are not so, and may hold what is biased or private in the text the models learned from.",
        "It is no new knowledge: it comes from models, and the documents that it continues are text of the sources.",
    ]
    filters = manifest.filters
    if filters is None or filters.near_dedup is None:
        limits.append(
            "Near copies of documents were not looked for: passages may be copied from the real text."
        )
    if _searched(manifest) is None:
        limits.append(
            "It was not searched for evaluation sets: search for yours before you report scores."
        )
    kinds = {shard.kind for shard in manifest.shards}
    if kinds >= {"mixed", "synthetic"}:
        limits.append("`synthetic` holds all that was decoded, also what the mix leaves out.")
    if kinds >= {"mixed", "real"}:
        limits.append(
            "`mixed` holds copies of samples of the other configurations: do not add them up."
        )
    limits.append("The licence above was computed by coarse rules, and is no legal advice.")
    return "".join(f"- {one}\n" for one in limits)


def _rebuilding(recipe: Recipe, lock: Lock) -> str:
    pin = f"=={lock.cdgen}" if lock.cdgen.replace(".", "").isalnum() else ""
    local = any(source.path is not None for source in recipe.text.sources)
    places = (
        " `recipe.yaml` names inputs that were files of the builder's machine by name only: put them beside it first; "
        "their sha256 is in `recipe.lock.json`."
    )
    return f"""\
In a copy of this repository:

```sh
pip install "cdgen{pin}"
cdgen build recipe.yaml --out ../rebuilt
cdgen diff . ../rebuilt
```

On the numeric class of `recipe.lock.json` (kind of machine, versions, threads) the shards are the same byte for byte; \
on another one real text is, and synthetic text agrees in most tokens.{places if local else ""}"""


def _citation(manifest: Manifest) -> str:
    digest = code(manifest.digest)
    name = "".join(
        char for char in manifest.name if char.isascii() and (char.isalnum() or char in "-_ ")
    )
    return f"""\
Manifest digest (of all shards): {digest}

```bibtex
@misc{{cdgen-{name.replace(" ", "-") or "corpus"},
  title = {{{name or "A corpus"}: a corpus made with cdgen}},
  note  = {{Manifest digest {digest.strip("`")}}}
}}
@inproceedings{{contrastive-decoding-synthetic-data,
  title     = {{Contrastive Decoding for Synthetic Data Generation in Low-Resource Language Modeling}},
  author    = {{Ulm and Du and Sn{{\\ae}}bjarnarson}},
  booktitle = {{BabyLM workshop at EMNLP}},
  year      = {{2025}},
  note      = {{arXiv 2510.08245}}
}}
```"""
