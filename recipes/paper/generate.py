"""Write the recipes and run files of this folder: the reference study (arXiv 2510.08245), row by row, and beyond it.

    python generate.py [FOLDER]

Each file is complete in itself, as every recipe is; this script is what keeps them alike. A test fails when the files
that are here are not what it writes. FOLDER is the one this script is in by default.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

NEXT = "\n             "  # an entry of a list, under the one before it
NO_AMATEUR = "{kind: none}"
EARLY = "{kind: checkpoint, checkpoint: 500}"
CONTRASTIVE = "{method: contrastive, lambda: 1.0, alpha: 0.1}"
TRUNCATIONS = {
    **{f"top-k-{k}": f"top_k: {k}" for k in (50, 100, 200)},
    **{f"top-p-{p}": f"top_p: 0.{p}" for p in (90, 95, 97)},
}

TEXT = """\
text:
  sources:                        # README.md says which files these are
    - {name: gutenberg, path: data/gutenberg.train, format: text, license: LicenseRef-public-domain, language: en}
    - {name: simple-wiki, path: data/simple_wiki.train, format: text, license: CC-BY-SA-3.0, language: en}
    - {name: open-subtitles, path: data/open_subtitles.train, format: text, license: LicenseRef-OpenSubtitles,
       language: en}
    - {name: tinystories, path: data/tinystories.train.txt, document: separator, separator: <|endoftext|>,
       license: CDLA-Sharing-1.0, language: en}
    - {name: gutenberg-test, path: data/gutenberg.test, format: text, only: eval, license: LicenseRef-public-domain,
       language: en}
    - {name: simple-wiki-test, path: data/simple_wiki.test, format: text, only: eval, license: CC-BY-SA-3.0,
       language: en}
    - {name: open-subtitles-test, path: data/open_subtitles.test, format: text, only: eval,
       license: LicenseRef-OpenSubtitles, language: en}
    - {name: tinystories-valid, path: data/tinystories.valid.txt, document: separator, separator: <|endoftext|>,
       only: eval, license: CDLA-Sharing-1.0, language: en}
  splits: {train: 0.95, eval: 0.0, prefix: 0.05, seed: 42}        # the eval split is the sources that are kept for it
"""

OTHER_TEXT = """\
text:
  sources:                        # {which}
    - {{name: {name}, path: data/{name}.txt, document: blank-line, license: LicenseRef-yours, language: {language}}}
  splits: {{train: 0.90, eval: 0.05, prefix: 0.05, seed: 42}}
"""

TOKENIZER = "tokenizer: {train: {algorithm: bpe, vocab_size: 32000}}\n"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of a Llama and what of it fits into one forward pass."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    micro_batch_tokens: int = 32768


EXPERT = Size(layers=12, hidden=768, heads=12, ffn=3072)
SMALL = {
    5: Size(layers=10, hidden=512, heads=8, ffn=2048),
    10: Size(layers=8, hidden=384, heads=6, ffn=1536),
    20: Size(layers=6, hidden=256, heads=4, ffn=1024),
    50: Size(layers=5, hidden=224, heads=4, ffn=896),
    100: Size(layers=4, hidden=192, heads=3, ffn=768),
}
"""By how many times smaller than the expert the study calls them."""
SCALED = {
    "500m": Size(layers=26, hidden=1024, heads=16, ffn=4096, micro_batch_tokens=16384),
    "1b": Size(layers=22, hidden=1600, heads=25, ffn=6400, micro_batch_tokens=8192),
}
"""With both embeddings: 502 and 1,004 million parameters."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One recipe: what differs from the others."""

    name: str
    about: str
    text: str = TEXT
    tokenizer: str = TOKENIZER
    expert: str = ""
    amateur: str = EARLY
    decode: str = CONTRASTIVE
    completions: int = 8
    synthetic: str = "0.3"
    also: tuple[str, ...] = ()


def trained(size: Size, *, seed: int, checkpoint_every: int = 500) -> str:
    """The training section of a model: the study's schedule."""
    return (
        f"{{architecture: llama, layers: {size.layers}, hidden: {size.hidden}, heads: {size.heads}, "
        f"kv_heads: {size.heads}, ffn: {size.ffn}, context: 1024,\n          steps: 8000, batch_tokens: 262144, "
        f"micro_batch_tokens: {size.micro_batch_tokens}, optimizer: adamw, learning_rate: 1.0e-3,\n"
        f"          schedule: cosine, warmup_steps: 150, weight_decay: 0.1, checkpoint_every: {checkpoint_every}, "
        f"precision: bfloat16, seed: {seed}}}"
    )


def expert(size: Size = EXPERT, *, checkpoint_every: int = 500, note: str = "") -> str:
    """The expert section: the baseline's model, seed 43, step 2500."""
    said = f"  # {note}\n" if note else ""
    return f"expert:\n{said}  train: {trained(size, seed=43, checkpoint_every=checkpoint_every)}\n  checkpoint: 2500\n"


def plain() -> Iterator[Corpus]:
    """NO-CONTRAST: the expert alone."""
    sample = Corpus(
        name="no-contrast",
        about="NO-CONTRAST, plain: the expert alone, its whole vocabulary.",
        amateur=NO_AMATEUR,
        decode="{method: sample}",
    )
    yield sample
    yield replace(
        sample,
        name="no-contrast-vhead",
        about="NO-CONTRAST, V-HEAD: the expert alone, inside its head.",
        decode="{method: head_only, alpha: 0.1}",
    )
    for name, field in TRUNCATIONS.items():
        yield replace(
            sample,
            name=f"no-contrast-{name}",
            about=f"NO-CONTRAST, {name}: the expert alone, truncated.",
            decode=f"{{method: sample, {field}}}",
        )


def contrastive() -> Iterator[Corpus]:
    """CD-EARLY, CD-SMALL, CD-DROP, and CD-EARLY-500 with a truncation."""
    for step in (500, 1000, 1500, 2000):
        yield Corpus(
            name=f"cd-early-{step}",
            about=f"CD-EARLY-{step}: the amateur is step {step} of the expert's own run.",
            amateur=f"{{kind: checkpoint, checkpoint: {step}}}",
        )
    for ratio, size in SMALL.items():
        unreported = " Trained in the study, and not reported." if ratio == 5 else ""
        yield Corpus(
            name=f"cd-small-{ratio}",
            about=f"CD-SMALL-{ratio}: the amateur is a smaller model, seed 42, step 2500.{unreported}",
            amateur=f"\n  kind: model\n  train: {trained(size, seed=42)}\n  checkpoint: 2500",
        )
    for tenths in range(1, 8):
        unreported = " In the study's code, and not reported." if tenths in (4, 6) else ""
        yield Corpus(
            name=f"cd-drop-{tenths}0",
            about=f"CD-DROP-0.{tenths}: the amateur is the expert with attention dropout 0.{tenths}.{unreported}",
            amateur=f"{{kind: dropout, attention: 0.{tenths}}}",
        )
    for name, field in TRUNCATIONS.items():
        yield Corpus(
            name=f"cd-early-500-{name}",
            about=f"CD-EARLY-500, {name}: truncated after contrast and mask, on the scores.",
            decode=f"{{method: contrastive, lambda: 1.0, alpha: 0.1, {field}}}",
        )


def unpublished() -> Iterator[Corpus]:
    """What is in the study's code and not in the paper."""
    yield Corpus(
        name="cd-early-500-tail",
        about="CD-EARLY-500 with a tail: outside the head log p_G, below the head's smallest score.",
        decode="{method: contrastive, lambda: 1.0, alpha: 0.1, outside_head: tail}",
    )
    yield Corpus(
        name="cd-early-500-no-repeat-4",
        about="CD-EARLY-500 without a repeated 4-gram, over prefix and completion.",
        decode="{method: contrastive, lambda: 1.0, alpha: 0.1, no_repeat_ngram: 4}",
    )
    yield Corpus(
        name="cd-early-500-reference-code",
        about="CD-EARLY-500 by the formula of the study's code: -20 outside the head, an epsilon in the logarithms.",
        decode="{method: contrastive, lambda: 1.0, alpha: 0.1, outside_head: -20, log_epsilon: 1.0e-10}",
    )
    yield Corpus(
        name="cd-early-500-completions-16",
        about="CD-EARLY-500 with 16 completions of each prefix.",
        completions=16,
    )
    yield Corpus(
        name="cd-early-500-and-no-contrast",
        about="Both corpora together: half of the synthetic share is CD-EARLY-500, half NO-CONTRAST.",
        synthetic="0.15",
        also=("{corpus: ../../shards/no-contrast, share: 0.15}",),
    )


def generations() -> Iterator[Corpus]:
    """Experts that were trained on what an expert wrote: the second to the fourth generation."""
    share = {2: ("0.15", 0.15), 3: ("0.1", 0.1), 4: ("0.075", 0.075)}
    for way in ("replace", "accumulate"):
        for number in (2, 3, 4):
            before = "cd-early-500" if number == 2 else f"generation-{number - 1}-{way}"
            run = f"../../runs/{before}-43"
            corpora = ["cd-early-500", *(f"generation-{n}-{way}" for n in range(2, number))]
            own, each = share[number]
            also = tuple(f"{{corpus: ../../shards/{name}, share: {each}}}" for name in corpora)
            kept = (
                "the text of earlier generations is replaced"
                if way == "replace"
                else "all generations share the 30 %"
            )
            yield Corpus(
                name=f"generation-{number}-{way}",
                about=f"Generation {number}: the expert was trained on {before}; {kept}.",
                tokenizer="",
                expert=f"expert: {{path: {run}/step-002500, license: LicenseRef-mixed}}   # `cdgen train` wrote it\n",
                amateur=f"{{kind: model, path: {run}/step-000500, license: LicenseRef-mixed}}",
                synthetic="0.3" if way == "replace" else own,
                also=() if way == "replace" else also,
            )


def beyond() -> Iterator[Corpus]:
    """What the study names as open: other text, larger experts, the amateur's quality."""
    domain = OTHER_TEXT.format(
        which="one file of yours, of one domain", name="domain", language="en"
    )
    language = OTHER_TEXT.format(
        which="one file of yours, in one language", name="language", language="is"
    )
    yield Corpus(
        name="beyond-domain",
        about="Another domain: the study's models on text of yours.",
        text=domain,
    )
    yield Corpus(
        name="beyond-language",
        about="Another language: the study's models on text of yours.",
        text=language,
    )
    for name, size in SCALED.items():
        yield Corpus(
            name=f"beyond-expert-{name}",
            about=f"Scaling: an expert of {name.upper()} parameters, its own step 500 as amateur.",
            expert=expert(size),
        )
    for step in (250, 500, 1000, 1500):
        yield Corpus(
            name=f"beyond-amateur-{step}",
            about=f"Contrast quality: an amateur of step {step}, from checkpoints every 250.",
            expert=expert(checkpoint_every=250),
            amateur=f"{{kind: checkpoint, checkpoint: {step}}}",
        )


def corpora() -> list[Corpus]:
    """Every recipe of this folder."""
    return [*plain(), *contrastive(), *unpublished(), *generations(), *beyond()]


def recipe(corpus: Corpus) -> str:
    """The text of a recipe file."""
    also = f"also: [{f',{NEXT}'.join(corpus.also)}],\n      " if corpus.also else ""
    amateur = corpus.amateur if corpus.amateur.startswith("\n") else f" {corpus.amateur}"
    return f"""\
# yaml-language-server: $schema=../recipe.schema.json
# {corpus.about}
# Written by generate.py: change that, or copy this file. README.md says what differs from the study, and why.
version: 1
name: {corpus.name}
description: "{corpus.about}"

{corpus.text}
{corpus.tokenizer}
{corpus.expert or expert()}
amateur:{amateur}

decode: {corpus.decode}
generate: {{prefix_tokens: 20, completions: {corpus.completions}, new_tokens: 400, stop_at_eos: false,
           keep_prefix: true, seed: 42, rows_per_batch: 512, weights_dtype: float32, cache_dtype: float32}}

mix: {{synthetic: {corpus.synthetic}, {also}materialize: false, seed: 42}}
""".replace("\n\n\n", "\n\n")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run file."""

    name: str
    about: str
    corpus: str
    mix: str
    size: Size = EXPERT


def runs() -> Iterator[Run]:
    """A run of every corpus, the baseline, and CD-EARLY-500 at nine shares."""
    yield Run(
        name="baseline",
        about="BASELINE: real text alone. Seed 43 of it, step 2500, is the expert of every recipe.",
        corpus="no-contrast",
        mix="{synthetic: 0.0}",
    )
    for corpus in corpora():
        name = corpus.name
        size = SCALED.get(name.removeprefix("beyond-expert-"), EXPERT)
        yield Run(name=name, about=corpus.about, corpus=name, mix="{}", size=size)
    for tenths in range(1, 10):
        yield Run(
            name=f"cd-early-500-mix-{tenths}0",
            about=f"CD-EARLY-500, {tenths}0 % synthetic.",
            corpus="cd-early-500",
            mix=f"{{synthetic: 0.{tenths}}}",
        )


def run_file(run: Run) -> str:
    """The text of a run file."""
    mix = "" if run.mix == "{}" else f"mix: {run.mix}\n"
    return f"""\
# yaml-language-server: $schema=../../run.schema.json
# {run.about}
# Written by generate.py. Another seed: --set train.seed=42 --out runs/{run.name}-42 (the study: 42 to 51).
version: 1
name: {run.name}-43
condition: {run.name}
corpus: ../../../shards/{run.corpus}
{mix}train: {trained(run.size, seed=43).replace(chr(10) + "   ", chr(10))}
"""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep file."""

    name: str
    about: str
    seeds: str
    corpora: tuple[str, ...]
    """Lines of the list."""
    conditions: tuple[str, ...]


SEEDS = "[42, 43, 44, 45, 46, 47, 48, 49, 50, 51]"
BASELINE = "{name: baseline, corpus: no-contrast, set: {mix.synthetic: 0.0}}"


def built(name: str, more: str = "") -> str:
    """A corpus of a sweep."""
    return f"{{name: {name}, recipe: {name}.yaml{more}}}"


def trained_on(name: str, more: str = "") -> str:
    """A condition of a sweep."""
    return f"{{name: {name}, corpus: {name}{more}}}"


def sweeps() -> Iterator[Sweep]:
    """The study as lists of jobs."""
    tables = [corpus.name for corpus in [*plain(), *contrastive(), *unpublished()]]
    both = "cd-early-500-and-no-contrast"
    together = ", also: [{corpus: no-contrast, share: 0.15}]"
    yield Sweep(
        name="study",
        about="The reference study: every corpus, trained on with ten seeds, against the baseline.",
        seeds=SEEDS,
        corpora=tuple(built(name, together if name == both else "") for name in tables),
        conditions=(BASELINE, *map(trained_on, tables)),
    )
    shares = [
        f"{{name: cd-early-500-mix-{tenths}0, corpus: cd-early-500, set: {{mix.synthetic: 0.{tenths}}}}}"
        for tenths in range(1, 10)
    ]
    yield Sweep(
        name="mixing",
        about="Nine shares of CD-EARLY-500: one corpus, decoded once.",
        seeds=SEEDS,
        corpora=(built("cd-early-500"),),
        conditions=(BASELINE.replace("no-contrast", "cd-early-500"), *shares),
    )
    later = [corpus.name for corpus in generations()]
    yield Sweep(
        name="generations",
        about="Four generations, each trained on what the one before it wrote: replaced, or accumulated.",
        seeds="[43]",
        corpora=(built("cd-early-500"), *(_generation(corpus) for corpus in generations())),
        conditions=(
            BASELINE.replace("no-contrast", "cd-early-500"),
            *map(trained_on, ["cd-early-500", *later]),
        ),
    )


def _generation(corpus: Corpus) -> str:
    """A later generation's corpus: its models and further corpora are those of the sweep."""
    run = corpus.expert.partition("../../runs/")[2].partition("/")[0]
    models = f"{{expert.path: {{run: {run}, step: 2500}}, amateur.path: {{run: {run}, step: 500}}}}"
    also = ", ".join(one.replace("../../shards/", "") for one in corpus.also)
    return built(
        corpus.name, f",\n     models: {models}" + (f",\n     also: [{also}]" if also else "")
    )


def sweep_file(sweep: Sweep) -> str:
    """The text of a sweep file."""
    return f"""\
# yaml-language-server: $schema=../sweep.schema.json
# {sweep.about}
# Written by generate.py. One run of it, on a machine of its own: --only cd-early-500-43 --results small/
version: 1
name: paper-{sweep.name}
description: "{sweep.about}"

corpora:
  - {f"{chr(10)}  - ".join(sweep.corpora)}

matrix:
  run: runs/baseline.yaml
  seeds: {sweep.seeds}
  conditions:
    - {f"{chr(10)}    - ".join(sweep.conditions)}

evaluate:                         # data: the folder that `cdgen eval --data` reads; EWoK's files are yours to get
  tasks: [blimp, blimp_supplement, ewok, entity_tracking, wug_adj, reading, eye_tracking]
  data: data/eval
  checkpoints: all                # the study took the best of 16 for each task

compare: {{baseline: baseline}}
"""


def files() -> dict[str, str]:
    """By name: the text of every file."""
    made = {f"{corpus.name}.yaml": recipe(corpus) for corpus in corpora()}
    made |= {f"{sweep.name}.sweep.yaml": sweep_file(sweep) for sweep in sweeps()}
    return made | {f"runs/{run.name}.yaml": run_file(run) for run in runs()}


def main(folder: Path) -> None:
    """Write the files, and remove those that are no longer made."""
    made = files()
    for old in [*folder.glob("*.yaml"), *folder.glob("runs/*.yaml")]:
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
