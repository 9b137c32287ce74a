"""What a recipe may say: frozen, strict types. The text under a field is its help.

A recipe is complete in itself: every field is here, with its default, and nothing else is accepted.
Units are in the names or in the help; tokens are counted with the recipe's own tokenizer.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from cdgen.recipes.addresses import read_model_path
from cdgen.recipes.licenses import check_license

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SMALLEST_SHARE = 1e-6
SMALLEST_REAL_SHARE = 1e-4
"""Shares are mixed as whole millionths at the finest, and real text must still have some when they are rounded."""
MixShare = Annotated[float, Field(ge=SMALLEST_SHARE, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Precision = Literal["float32", "bfloat16"]
FileFormat = Literal["text", "jsonl", "parquet", "hf", "corpus"]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
HubId = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=200)]
SplitName = Annotated[str, Field(pattern=r"^\w+([.-]\w+)*$")]

FORMAT_ENDINGS: dict[str, FileFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
COMPRESSIONS = (".zst", ".gz")
License = Annotated[str, AfterValidator(check_license)]
ModelPath = Annotated[
    Path | str, PlainValidator(read_model_path), WithJsonSchema({"type": "string"})
]
"""A folder here as a Path, or the address of one in an object store as text."""
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)]


class Spec(BaseModel):
    """The base of every part of a recipe: immutable, strict types, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
        serialize_by_alias=True,
    )


def one_of(spec: BaseModel, *fields: str) -> None:
    """Raise ValueError unless exactly one of `fields` is set on `spec`."""
    given = [name for name in fields if getattr(spec, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise ValueError(f"exactly one of {', '.join(fields)} is needed, found {found}")


class HubDataset(Spec):
    """A dataset on the Hugging Face Hub, pinned to a revision."""

    dataset: HubId
    """The dataset's id, such as roneneldan/TinyStories."""
    revision: Commit
    """The full commit sha, 40 hex digits: a branch can move, and the corpus with it."""
    config: str | None = None
    """The configuration (subset) to read, where the dataset has several."""
    split: SplitName = "train"
    """The split to read, whole."""
    field: str = "text"
    """The column that holds the text."""


class HubModel(Spec):
    """A model on the Hugging Face Hub, pinned to a revision."""

    model: HubId
    """The model's id, such as HuggingFaceTB/SmolLM2-135M."""
    revision: Commit
    """The full commit sha, 40 hex digits: a branch can move, and the corpus with it."""


class Source(Spec):
    """One body of real text."""

    name: Name
    """A short name; every sample carries it as its origin."""
    path: Path | None = Field(default=None, strict=False)
    """A file or folder, relative to the recipe: .txt or .jsonl (also .zst and .gz of them), .parquet, a cdgen corpus,
    or a folder that `datasets` reads."""
    hf: HubDataset | None = None
    """A dataset on the Hub, instead of a path."""
    format: FileFormat | None = None
    """How it is read. Absent: as the file's name ends. A folder needs corpus (another cdgen corpus) or hf (data files,
    or what Dataset.save_to_disk wrote)."""
    document: Literal["blank-line", "file", "separator"] | None = None
    """Of format text: what ends a document. A blank line (the default), the end of the file, or a line that is
    `separator`. Elsewhere a row is a document."""
    separator: Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]+$")] | None = None
    """Of document separator: the whole line between two documents, such as <|endoftext|>."""
    field: str | None = None
    """Of jsonl, parquet and a local hf folder: the field or column that holds the text; text by default."""
    kind: Literal["real", "synthetic", "mixed"] | None = None
    """Of a corpus: which of its samples; mixed by default."""
    split: SplitName | None = None
    """Of a corpus (train or eval) and of a local hf folder: which split; train by default."""
    only: Literal["train", "eval", "prefix"] | None = None
    """Keep every document of this source for one split."""
    license: License
    """An SPDX licence id or expression, such as CC-BY-4.0, or LicenseRef-… for a licence that has no id."""
    language: Language | None = None
    """The language of the text, as the card tells it: an ISO 639 code or BCP 47 tag, such as en or pt-BR."""

    @property
    def file_format(self) -> FileFormat:
        """The format that is given, or that the name says."""
        found = "hf" if self.hf else self.format or _format_of(self.path)
        assert found is not None
        return found

    def reading(self) -> dict[str, str | None]:
        """How the content is cut into documents, defaults filled in: part of the text digest."""
        kind = self.file_format
        cut: dict[str, str | None] = {"format": kind, "document": None}
        if kind == "text":
            cut["document"] = self.document or "blank-line"
        if self.separator is not None:
            cut["separator"] = self.separator
        if self.path is not None and kind in ("jsonl", "parquet", "hf"):
            cut["field"] = self.field or "text"
        if self.path is not None and kind == "hf":
            cut["split"] = self.split or "train"
        return cut

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        one_of(self, "path", "hf")
        if self.hf is None:
            _check_format(self)
        elif self.format not in (None, "hf"):
            raise ValueError(
                f"format {self.format} does not fit a dataset on the Hub; leave it out"
            )
        _check_reading(self)
        return self


def _format_of(path: Path | None) -> FileFormat | None:
    """The format that a file's name says, compression left out; None for a name that says none."""
    name = path.name.lower() if path else ""
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return FORMAT_ENDINGS.get(Path(name).suffix)


def _check_format(source: Source) -> None:
    assert source.path is not None
    name, said = source.path.name, _format_of(source.path)
    if source.format is None and said is None:
        raise ValueError(
            f"path {name} does not say its format by .txt, .jsonl or .parquet (.zst and .gz too); "
            "add format: text, jsonl, parquet, hf or corpus"
        )
    if source.format is not None and said not in (None, source.format):
        raise ValueError(f"format {source.format} does not fit {name}, whose name says {said}")
    if source.file_format == "parquet" and name.lower().endswith(COMPRESSIONS):
        raise ValueError(f"path {name}: parquet is compressed inside; decompress the file")


def _check_reading(source: Source) -> None:
    """Refuse fields that the source's format does not read."""
    kind, local = source.file_format, source.path is not None
    belongs = {
        "document": (kind == "text", "format text"),
        "separator": (source.document == "separator", "document: separator"),
        "field": (
            local and kind in ("jsonl", "parquet", "hf"),
            "jsonl, parquet and a local hf folder",
        ),
        "kind": (kind == "corpus", "format corpus"),
        "split": (local and kind in ("corpus", "hf"), "format corpus and a local hf folder"),
    }
    for name, (fits, where) in belongs.items():
        if getattr(source, name) is not None and not fits:
            inside = "; write it inside hf" if source.hf and name in ("field", "split") else ""
            raise ValueError(f"{name} belongs to {where}, this source is read as {kind}{inside}")
    if source.document == "separator" and source.separator is None:
        raise ValueError("document separator needs separator: the line between two documents")
    if kind == "corpus" and source.split not in (None, "train", "eval"):
        raise ValueError(f"split of a corpus must be train or eval, found {source.split}")


class Splits(Spec):
    """How parent documents are divided. Keyed by content: duplicates land on one side."""

    train: Share = 0.90
    """Share of documents that models train on and that the corpus keeps as real text."""
    eval: Share = 0.05
    """Share of documents held out for perplexity."""
    prefix: Share = 0.05
    """Share of documents whose beginnings the expert continues."""
    seed: Seed = 42
    """Chooses another division of the same documents."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.eval + self.prefix
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"train + eval + prefix must be 1, found {total:g}")
        return self


class Text(Spec):
    """The real text and how it is divided."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1, strict=False)]
    """Where the text comes from."""
    max_document_tokens: Annotated[int, Field(ge=16)] = 4096
    """Longer documents are cut into pieces at sentence ends; all pieces stay on one side of the split."""
    splits: Splits = Splits()
    """The three sides."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must differ, found {', '.join(twice)} more than once")
        return self


class TokenizerTraining(Spec):
    """A tokenizer trained on the train split."""

    algorithm: Literal["bpe"] = "bpe"
    """Byte-level byte-pair encoding."""
    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)] = 32000
    """Entries, the two special tokens included."""


class TokenizerSpec(Spec):
    """The tokenizer: trained here, or given. Absent: trained for a trained expert, the expert's own for a given one."""

    train: TokenizerTraining | None = None
    path: ModelPath | None = None
    """A folder with tokenizer.json, relative to the recipe, or the address of one, s3:// or gs://."""
    hf: HubModel | None = None
    license: License | None = None
    """Of a given tokenizer: its SPDX licence id or expression."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "train", "path", "hf")
        _check_given_license(self.license, given=self.train is None)
        return self


def _check_given_license(license_: str | None, *, given: bool) -> None:
    if license_ is not None and not given:
        raise ValueError("license belongs to what is given; what is trained here follows the text")


class ModelTraining(Spec):
    """A causal language model trained from scratch on the train split."""

    architecture: Literal["llama"] = "llama"
    """A decoder-only transformer: rotary positions, RMS norm, SwiGLU."""
    layers: Count = 12
    """Transformer blocks."""
    hidden: Count = 768
    """Width of the residual stream."""
    heads: Count = 12
    """Attention heads; hidden / heads must be an even whole number."""
    kv_heads: Count = 12
    """Key and value heads; fewer than heads = grouped-query attention."""
    ffn: Count = 3072
    """Width of the feed-forward layer."""
    tie_embeddings: bool = False
    """Share the input and output embedding."""
    context: Annotated[int, Field(ge=8)] = 1024
    """Tokens a training block holds."""
    steps: Count = 8000
    """Optimizer steps."""
    batch_tokens: Count = 262144
    """Tokens per optimizer step; a multiple of context."""
    micro_batch_tokens: Count | None = None
    """Tokens per forward pass; absent: the whole batch at once."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, as in the paper; muon: orthogonalised momentum for the layers' matrices and AdamW for the rest, which
    learns more from few tokens."""
    learning_rate: Positive = 1.0e-3
    """Peak of AdamW's; linear warm-up, then down to zero by the schedule."""
    matrix_learning_rate: Positive = 0.02
    """Peak of Muon's, on the same schedule."""
    adam_beta2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Decay of AdamW's second moment; the first one's is 0.9."""
    zero_init: bool = False
    """Begin with the output projections of attention and feed-forward layers at zero."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """The way down from the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 150
    """Steps of linear warm-up; at most steps."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """adamw: of every parameter, as in the reference code; muon: of every matrix."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 0.0
    """Gradient clipping; 0 = off."""
    checkpoint_every: Count = 500
    """Steps between the checkpoints that expert and amateur are chosen from; the last step is always one."""
    precision: Precision = "float32"
    """Arithmetic of the matrix products; weights and optimizer stay float32."""
    threads: Count = 2
    """CPU threads: part of the result, since a sum can change with them."""
    seed: Seed = 43
    """Of the first weights and of the order of the text."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"hidden / heads must be an even whole number, found {self.hidden} / {self.heads}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads, found {self.kv_heads} and {self.heads}")
        if self.batch_tokens % self.context:
            raise ValueError(
                f"batch_tokens must be a multiple of context, found {self.batch_tokens} and {self.context}"
            )
        micro = self.micro_batch_tokens or self.batch_tokens
        if micro % self.context or self.batch_tokens % micro:
            raise ValueError(
                "micro_batch_tokens must be a multiple of context and divide batch_tokens, "
                f"found {micro} for {self.batch_tokens} and {self.context}"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps must be at most steps, found {self.warmup_steps} and {self.steps}"
            )
        return self

    def checkpoints(self) -> tuple[int, ...]:
        """The steps at which weights are kept, ascending; the last step is always among them."""
        kept = range(self.checkpoint_every, self.steps, self.checkpoint_every)
        return (*kept, self.steps)


class Expert(Spec):
    """The expert, p_G: trained here, or given."""

    train: ModelTraining | None = None
    path: ModelPath | None = None
    """A folder that transformers loads a causal language model from, relative to the recipe, or the address of one,
    s3:// or gs://; safetensors only."""
    hf: HubModel | None = None
    checkpoint: Annotated[int, Field(ge=1)] | Literal["best"] | None = None
    """Of a trained expert: a step, or best (lowest eval perplexity; the default)."""
    license: License | None = None
    """Of a given expert: its SPDX licence id or expression, which the corpus's follows."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "train", "path", "hf")
        _check_choice(self.train, self.checkpoint)
        _check_given_license(self.license, given=self.train is None)
        return self


def _check_choice(train: ModelTraining | None, checkpoint: int | str | None) -> None:
    if train is None:
        if checkpoint is not None:
            raise ValueError("checkpoint belongs to a trained model; a given one is one checkpoint")
    elif checkpoint not in (None, "best", *train.checkpoints()):
        raise ValueError(f"checkpoint {checkpoint} is never written; {_checkpoints_help(train)}")


def _checkpoints_help(train: ModelTraining) -> str:
    kept = train.checkpoints()
    listed = ", ".join(map(str, kept[:4])) + (f", …, {kept[-1]}" if len(kept) > 4 else "")
    return f"the run keeps {listed}"


class CheckpointAmateur(Spec):
    """An earlier checkpoint of the expert's own training run (CD-Early, arXiv 2510.08245)."""

    kind: Literal["checkpoint"]
    checkpoint: Count
    """The step."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""


class ModelAmateur(Spec):
    """Another, usually smaller, model with the same vocabulary: given, or trained here on the same text (CD-Small)."""

    kind: Literal["model"]
    path: ModelPath | None = None
    """A folder that transformers loads a causal language model from, relative to the recipe, or the address of one,
    s3:// or gs://; safetensors only."""
    hf: HubModel | None = None
    train: ModelTraining | None = None
    """Trained here on the train split, beside the expert, with the same tokenizer."""
    checkpoint: Annotated[int, Field(ge=1)] | Literal["best"] | None = None
    """Of a model that is trained here: a step, or best (lowest eval perplexity; the default)."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""
    license: License | None = None
    """Of a given model: its SPDX licence id or expression, which the corpus's follows."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "path", "hf", "train")
        _check_choice(self.train, self.checkpoint)
        _check_given_license(self.license, given=self.train is None)
        return self


class DropoutAmateur(Spec):
    """The expert with attention dropout while it decodes, from the prefix on (CD-Drop, arXiv 2510.08245)."""

    kind: Literal["dropout"]
    attention: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Probability with which an attention weight is dropped, afresh at every step; the rest is divided by what is
    left. Which ones follows from the row alone."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""


class EarlyExitAmateur(Spec):
    """A middle layer of the expert, read through the expert's own final norm and head: no second forward pass."""

    kind: Literal["early_exit"]
    layer: Count
    """The last layer that counts, from 1; below the expert's number of layers."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""


class QuantizedAmateur(Spec):
    """The expert with the weights of its linear layers rounded; embeddings, norms and the head are not."""

    kind: Literal["quantized"]
    bits: Literal[4, 8]
    """8: one scale per output channel, symmetric. 4: one scale and zero point per group of 128 inputs."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""


class TruncatedContextAmateur(Spec):
    """The expert with less context; exactly one of tokens and prefix_tokens."""

    kind: Literal["truncated_context"]
    tokens: Count | None = None
    """At every step it sees the last so many tokens and nothing before them: each step computes all of them anew."""
    prefix_tokens: Count | None = None
    """It sees the last so many tokens of the prefix and all that was drawn since; 1 = without the prefix, as in
    arXiv 2210.15097. Costs what the expert costs. Below generate.prefix_tokens."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "tokens", "prefix_tokens")
        return self


class TemperatureAmateur(Spec):
    """The expert itself at another temperature: its own logits, no second forward pass."""

    kind: Literal["temperature"]
    temperature: Positive
    """Divides the expert's logits, besides decode.temperature; above 1 it is a flatter, weaker model."""

    @model_validator(mode="after")
    def _other(self) -> Self:
        if self.temperature == 1.0:
            raise ValueError("temperature 1 is the expert itself; above 1 it is a weaker model")
        return self


class NgramAmateur(Spec):
    """An n-gram model of the train split, with interpolated Kneser-Ney smoothing."""

    kind: Literal["ngram"]
    order: Annotated[int, Field(ge=1, le=8)]
    """Tokens in an n-gram: one more than it looks back on."""
    temperature: Positive = 1.0
    """Divides the amateur's logarithms of probability, besides decode.temperature."""


class NoAmateur(Spec):
    """No amateur: for the methods that need none."""

    kind: Literal["none"]


Amateur = Annotated[
    CheckpointAmateur
    | ModelAmateur
    | DropoutAmateur
    | EarlyExitAmateur
    | QuantizedAmateur
    | TruncatedContextAmateur
    | TemperatureAmateur
    | NgramAmateur
    | NoAmateur,
    Field(discriminator="kind"),
]


def _read_outside_head(value: Any) -> Any:
    """-inf is a word in YAML 1.2 core, .inf forms are numbers: both mean the same here."""
    if isinstance(value, float) and math.isinf(value) and value < 0:
        return "-inf"
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


OutsideHead = Annotated[float | Literal["-inf", "tail"], BeforeValidator(_read_outside_head)]


class WeightedModel(Spec):
    """One summand of weighted_sum: a model and the weight of its log-probabilities."""

    weight: float
    """Multiplies log p of this model; below 0 it is a model to keep away from."""
    model: Literal["expert", "amateur"] | None = None
    """The recipe's own expert or amateur, each at most once."""
    checkpoint: Count | None = None
    """Or another step of the expert's training run."""
    path: ModelPath | None = None
    """Or a folder that transformers loads a causal language model from, relative to the recipe, or the address of one,
    s3:// or gs://; safetensors only."""
    hf: HubModel | None = None
    """Or a model on the Hub. Whichever it is, it has the expert's vocabulary."""
    temperature: Positive = 1.0
    """Divides the model's logits, besides decode.temperature. The amateur has a temperature of its own."""
    license: License | None = None
    """Of a model in a folder or on the Hub: its SPDX licence id or expression, which the corpus's follows."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "model", "checkpoint", "path", "hf")
        _check_given_license(self.license, given=bool(self.path or self.hf))
        if self.model is not None and self.temperature != 1.0:
            where = "decode.temperature" if self.model == "expert" else "amateur.temperature"
            raise ValueError(f"temperature does not belong to model: {self.model}; use {where}")
        return self


class Decode(Spec):
    """How a token is chosen from the models' logits (arXiv 2510.08245, section 3)."""

    method: Literal["contrastive", "head_only", "sample", "weighted_sum"] = "contrastive"
    """contrastive: log p_G - lambda log p_B inside the head; head_only: log p_G there; sample: log p_G everywhere;
    weighted_sum: the sum of weight x log p over decode.models inside the expert's head."""
    lambda_: Annotated[float, Field(ge=0.0, alias="lambda")] = 1.0
    """Of contrastive: the weight of the amateur."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """The head: tokens with p_G more than alpha times the largest p_G."""
    temperature: Positive = 1.0
    """Divides every model's logits before softmax; the head is taken on that p_G."""
    score_temperature: Positive = 1.0
    """Divides the score after the mask."""
    top_k: Count | None = None
    """Keep the k largest scores, after the mask; for sample: of p_G."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Keep the smallest set of scores whose share exceeds p, after the mask."""
    no_repeat_ngram: Count | None = None
    """Forbid a second occurrence of any n-gram of tokens, over prefix and completion, before top_k and top_p. Where
    that forbids a whole head, the head is taken again among the tokens that are left."""
    outside_head: OutsideHead = "-inf"
    """Score outside the head: -inf; a number (the reference code: -20); or tail: log p_G, shifted so that its largest
    is the head's smallest score."""
    log_epsilon: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to probabilities before the logarithm (the reference code: 1.0e-10)."""
    models: Annotated[tuple[WeightedModel, ...], Field(strict=False)] | None = None
    """Of weighted_sum: the summands. The head is the expert's, also where the expert is none of them."""

    @property
    def further(self) -> tuple[WeightedModel, ...]:
        """The summands that are neither the recipe's expert nor its amateur."""
        return tuple(found for found in self.models or () if found.model is None)

    @model_validator(mode="after")
    def _summands(self) -> Self:
        if self.method != "weighted_sum":
            if self.models is not None:
                raise ValueError(f"models belongs to method weighted_sum, found {self.method}")
            return self
        if not self.models:
            raise ValueError(
                "method weighted_sum needs models, such as "
                "[{model: expert, weight: 1.5}, {model: amateur, weight: -0.5}]"
            )
        if self.lambda_ != 1.0:
            raise ValueError(
                "lambda belongs to method contrastive; weighted_sum has a weight per model"
            )
        named = [found.model for found in self.models if found.model is not None]
        if len(set(named)) < len(named):
            raise ValueError(
                f"models names the {max(set(named), key=named.count)} twice; add its weights"
            )
        return self


class Preflight(Spec):
    """A look at expert and amateur before decoding.

    On the beginnings of up to 32 eval documents (128 tokens each), and with up to 32 completions. It finds a contrast
    that is dead or degenerate, and changes nothing in the corpus.
    """

    min_gap_nats: Annotated[float, Field(ge=0.0)] = 0.05
    """Smallest difference between amateur's and expert's eval loss, nats per token, where the amateur is subtracted."""
    max_head_of_one: Share = 0.9
    """Largest share of positions where the head is one token, so that no method has a choice."""
    max_loops: Share = 0.5
    """Largest share of completions that loop: more than half of their tokens lie in 4-grams that they had before."""
    max_clones: Share = 0.5
    """Largest share of completions that are equal to an earlier one of the same prefix."""
    action: Literal["warn", "stop"] = "warn"
    """What happens beyond a limit: warn says so and decodes, stop does not build."""


class Generate(Spec):
    """What is decoded, and in which fixed geometry."""

    prefix_tokens: Count = 20
    """Tokens of each prefix, BOS included."""
    completions: Annotated[int, Field(ge=1, le=1000)] = 8
    """Different continuations of each prefix."""
    new_tokens: Count = 400
    """Tokens drawn per completion."""
    stop_at_eos: bool = False
    """Stop a row at its first end-of-text token; otherwise it goes on with another document."""
    keep_prefix: bool = True
    """Keep the prefix in the sample (it counts as synthetic)."""
    limit_prefixes: Count | None = None
    """A cap on the number of prefixes, not a demand."""
    seed: Seed = 42
    """With the prefix and the completion's number, the whole of a row's randomness."""
    rows_per_batch: Count = 512
    """Rows decoded together; a multiple of completions. Part of the result: sums depend on the shape."""
    batches_per_shard: Count = 8
    """Batches that one job decodes into one synthetic shard."""
    threads: Count = 2
    """CPU threads of a job; more cores mean more jobs."""
    weights_dtype: Precision = "bfloat16"
    """Of the weights while decoding."""
    cache_dtype: Precision = "bfloat16"
    """Of the attention cache while decoding."""

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        if self.rows_per_batch % self.completions:
            raise ValueError(
                f"rows_per_batch must be a multiple of completions, found {self.rows_per_batch} and {self.completions}"
            )
        return self


class EvaluationSet(Spec):
    """Texts that a trained model is judged by."""

    path: Path = Field(strict=False)
    """A .txt (an item is a line), .jsonl or .csv file (also .zst and .gz of them), or a folder of such files, relative
    to the recipe. Not copied into the corpus."""
    name: Name | None = None
    """What the report calls it; by default the path's last part."""
    fields: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    """Of jsonl and csv: the fields that hold text. Absent: the names that BLiMP, EWoK, entity tracking and their kin
    use, such as sentence_good, Context1, input_prefix, text; not those of answers."""

    @property
    def label(self) -> str:
        """Its name, or what its path suggests."""
        return self.name or re.sub(r"[^a-z0-9_-]+", "-", self.path.name.lower()).strip("-") or "set"


def _read_evaluation_set(value: Any) -> Any:
    """A bare path is a set without more to say."""
    return {"path": value} if isinstance(value, str) else value


class Contamination(Spec):
    """Overlap with evaluation sets, by words without regard to case and punctuation."""

    against: Annotated[
        tuple[Annotated[EvaluationSet, BeforeValidator(_read_evaluation_set)], ...],
        Field(min_length=1, strict=False),
    ]
    """Evaluation sets whose items must not be in the text: paths, or path with name and fields."""
    ngram: Count = 13
    """Words that must agree in a row; items of fewer words match whole."""
    action: Literal["flag", "drop", "keep"] = "drop"
    """What becomes of synthetic documents that hold an item: drop leaves them out of the mix, flag leaves them in and
    the card warns of them, keep leaves them in. All are listed in index/, real ones too, which are never dropped."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        labels = [found.label for found in self.against]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(
                f"two evaluation sets are called {twice}; give one of them another name"
            )
        return self


class Filters(Spec):
    """What keeps a decoded document out of the mix. Real text is never dropped."""

    exact_dedup: bool = True
    """Drop a synthetic document whose text is that of a real train document, or of a synthetic one with a lower key."""
    min_tokens: Annotated[int, Field(ge=0)] = 8
    """Drop a synthetic document of fewer tokens."""
    max_repetition: Share = 0.5
    """Drop a synthetic document when more than this share of its tokens lies in 4-grams that stood in it before."""
    near_dedup: Annotated[float, Field(ge=0.3, lt=1.0)] | None = None
    """Drop a synthetic document that resembles a real train document, or a synthetic one that stays and has a lower
    key, at least so much: the share of their runs of five words that they have in common. 0.8 is usual. Acts last."""
    contamination: Contamination | None = None
    """Evaluation sets that the text is searched for. It acts after min_tokens and max_repetition."""


class AlsoCorpus(Spec):
    """Another synthetic corpus in the mix."""

    corpus: Path = Field(strict=False)
    """The folder of a finished cdgen corpus with the same tokenizer; what it decoded is mixed in."""
    share: MixShare
    """Its share of the whole, besides mix.synthetic."""


class Mix(Spec):
    """How real and synthetic text are put together."""

    synthetic: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Share of synthetic text, exact."""
    also: Annotated[tuple[AlsoCorpus, ...], Field(strict=False)] = ()
    """Further synthetic corpora, each with its own share."""
    unit: Literal["tokens", "documents"] = "tokens"
    """What shares and sizes are counted in."""
    size: Literal["real_once", "synthetic_once"] | Count = "real_once"
    """real_once: the real train text once, and as much synthetic text as the shares ask for; synthetic_once: this
    recipe's own synthetic text once, and the others as the shares ask; a number: that many tokens (or documents, as
    mix.unit says), the last document whole."""
    repeat: Literal["error", "allow"] = "error"
    """When a text is too short: stop, or begin it anew in another order; a repeated sample's key ends in -p2, -p3, …"""
    materialize: bool = True
    """Write mixed shards."""
    seed: Seed = 42
    """Of the order of the mixed text."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if 0 < self.synthetic < SMALLEST_SHARE:
            raise ValueError(
                f"synthetic must be 0 or at least {SMALLEST_SHARE:f}, found {self.synthetic:g}"
            )
        real = 1 - math.fsum([self.synthetic, *(also.share for also in self.also)])
        if real < SMALLEST_REAL_SHARE:
            raise ValueError(
                f"synthetic and the shares of also must leave at least {SMALLEST_REAL_SHARE} for real text, "
                f"found {max(real, 0.0):.6g} left"
            )
        if self.size == "synthetic_once" and self.synthetic == 0:
            raise ValueError("size synthetic_once needs synthetic above 0")
        return self


class Shards(Spec):
    """The files."""

    documents: Count = 4096
    """Documents per real or mixed shard; at least 8 mixed shards are written."""
    tokens: Literal["npy"] = "npy"
    """How token ids are stored."""


class Recipe(Spec):
    """One corpus, complete in one file."""

    version: Literal[1]
    """Of the recipe format."""
    name: Name
    """The default output folder is shards/<name>."""
    description: str = ""
    """For people: it is put on the card."""
    license: License | None = None
    """What the published corpus is under. Absent: what follows from its texts and models."""
    text: Text
    tokenizer: TokenizerSpec | None = None
    expert: Expert
    amateur: Amateur
    decode: Decode = Decode()
    preflight: Preflight | None = None
    generate: Generate = Generate()
    filters: Filters | None = None
    mix: Mix = Mix()
    shards: Shards = Shards()

    def tokenizer_training(self) -> TokenizerTraining:
        """How a tokenizer is trained that is not given."""
        return (self.tokenizer and self.tokenizer.train) or TokenizerTraining()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_amateur(self)
        _check_summands(self)
        length = self.generate.prefix_tokens + self.generate.new_tokens
        for role, train in (("expert", self.expert.train), ("amateur", self.amateur_training())):
            if train is not None and length > train.context:
                raise ValueError(
                    f"generate.prefix_tokens + new_tokens must fit {role}.train.context, "
                    f"found {length} and {train.context}"
                )
        return self

    def amateur_training(self) -> ModelTraining | None:
        """How an amateur is trained that is a model of its own; None for every other."""
        return self.amateur.train if isinstance(self.amateur, ModelAmateur) else None


def _check_amateur(recipe: Recipe) -> None:
    """ValueError for an amateur that does not fit the expert, the method or the prefixes."""
    amateur, train = recipe.amateur, recipe.expert.train
    match amateur:
        case CheckpointAmateur():
            if train is None:
                raise ValueError(
                    "amateur.checkpoint needs an expert that is trained here; use kind: model with a path"
                )
            if amateur.checkpoint not in train.checkpoints():
                raise ValueError(
                    f"amateur.checkpoint {amateur.checkpoint} is never written; {_checkpoints_help(train)}"
                )
        case EarlyExitAmateur():
            if train is not None and amateur.layer >= train.layers:
                raise ValueError(
                    f"amateur.layer must be below expert.train.layers, found {amateur.layer} and {train.layers}"
                )
        case TruncatedContextAmateur():
            given = recipe.generate.prefix_tokens
            if amateur.prefix_tokens is not None and amateur.prefix_tokens >= given:
                raise ValueError(
                    "amateur.prefix_tokens must be below generate.prefix_tokens, where it sees what the "
                    f"expert sees; found {amateur.prefix_tokens} and {given}"
                )
        case NoAmateur():
            if recipe.decode.method == "contrastive":
                raise ValueError(
                    "decode.method contrastive needs an amateur; use head_only or sample with kind: none"
                )


def _check_summands(recipe: Recipe) -> None:
    """ValueError for a summand of weighted_sum that the recipe does not have."""
    train = recipe.expert.train
    for number, found in enumerate(recipe.decode.models or ()):
        at = f"decode.models[{number}]"
        if found.model == "amateur" and isinstance(recipe.amateur, NoAmateur):
            raise ValueError(
                f"{at} is the amateur, and amateur.kind is none; name its kind, or leave it out"
            )
        if found.checkpoint is None:
            continue
        if train is None:
            raise ValueError(f"{at}.checkpoint needs an expert that is trained here; use a path")
        if found.checkpoint not in train.checkpoints():
            raise ValueError(
                f"{at}.checkpoint {found.checkpoint} is never written; {_checkpoints_help(train)}"
            )
