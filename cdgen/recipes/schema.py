"""What a recipe may say: frozen, strict types. The text under a field is its help.

A recipe is complete in itself: every field is here, with its default, and nothing else is accepted.
Units are in the names or in the help; tokens are counted with the recipe's own tokenizer.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Precision = Literal["float32", "bfloat16"]


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

    dataset: str
    """The dataset's id, such as roneneldan/TinyStories."""
    revision: str
    """The commit sha."""
    split: str = "train"
    """The split to read."""
    field: str = "text"
    """The column that holds the text."""


class HubModel(Spec):
    """A model on the Hugging Face Hub, pinned to a revision."""

    model: str
    """The model's id, such as HuggingFaceTB/SmolLM2-135M."""
    revision: str
    """The commit sha."""


class Source(Spec):
    """One body of real text."""

    name: Name
    """A short name; every sample carries it as its origin."""
    path: Path | None = Field(default=None, strict=False)
    """A file, relative to the recipe: .txt or .txt.zst."""
    hf: HubDataset | None = None
    """A dataset on the Hub, instead of a path."""
    format: Literal["text", "jsonl", "parquet", "hf", "corpus"] = "text"
    """How the file is read."""
    document: Literal["blank-line", "file"] = "blank-line"
    """What ends a document: a blank line, or the end of the file."""
    only: Literal["train", "eval", "prefix"] | None = None
    """Keep every document of this source for one split."""
    license: str
    """An SPDX licence id, or LicenseRef-… for one that has no id."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        one_of(self, "path", "hf")
        return self


class Splits(Spec):
    """How parent documents are divided. Keyed by content: duplicates land on one side."""

    train: Share = 0.90
    """Share of documents that models train on and that the corpus keeps as real text."""
    eval: Share = 0.05
    """Share of documents held out for perplexity."""
    prefix: Share = 0.05
    """Share of documents whose beginnings the expert continues."""
    seed: Seed = 42

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
    path: Path | None = Field(default=None, strict=False)
    """A folder with tokenizer.json."""
    hf: HubModel | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "train", "path", "hf")
        return self


class ModelTraining(Spec):
    """A causal language model trained from scratch on the train split."""

    architecture: Literal["llama"] = "llama"
    layers: Count = 12
    hidden: Count = 768
    """Width of the residual stream."""
    heads: Count = 12
    kv_heads: Count = 12
    """Key and value heads; fewer than heads = grouped-query attention."""
    ffn: Count = 3072
    """Width of the feed-forward layer."""
    tie_embeddings: bool = False
    """Share the input and output embedding."""
    context: Annotated[int, Field(ge=8)] = 1024
    """Tokens a training block holds."""
    steps: Count = 8000
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
    path: Path | None = Field(default=None, strict=False)
    """A folder that transformers loads a causal language model from; safetensors only."""
    hf: HubModel | None = None
    checkpoint: Annotated[int, Field(ge=1)] | Literal["best"] | None = None
    """Of a trained expert: a step, or best (lowest eval perplexity; the default)."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "train", "path", "hf")
        if self.train is None:
            if self.checkpoint is not None:
                raise ValueError(
                    "checkpoint belongs to a trained expert; a given expert is one checkpoint"
                )
        elif self.checkpoint not in (None, "best", *self.train.checkpoints()):
            raise ValueError(
                f"checkpoint {self.checkpoint} is never written; {_checkpoints_help(self.train)}"
            )
        return self


def _checkpoints_help(train: ModelTraining) -> str:
    kept = train.checkpoints()
    listed = ", ".join(map(str, kept[:4])) + (f", …, {kept[-1]}" if len(kept) > 4 else "")
    return f"the run keeps {listed}"


class CheckpointAmateur(Spec):
    """An earlier checkpoint of the expert's own training run (CD-Early)."""

    kind: Literal["checkpoint"]
    checkpoint: Count
    """The step."""
    temperature: Positive = 1.0
    """Divides the amateur's logits, besides decode.temperature."""


class ModelAmateur(Spec):
    """Another, usually smaller, model with the same vocabulary (CD-Small)."""

    kind: Literal["model"]
    path: Path | None = Field(default=None, strict=False)
    hf: HubModel | None = None
    train: ModelTraining | None = None
    checkpoint: Annotated[int, Field(ge=1)] | Literal["best"] | None = None
    temperature: Positive = 1.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        one_of(self, "path", "hf", "train")
        return self


class DropoutAmateur(Spec):
    """The expert with attention dropout (CD-Drop)."""

    kind: Literal["dropout"]
    attention: Annotated[float, Field(gt=0.0, lt=1.0)]
    temperature: Positive = 1.0


class EarlyExitAmateur(Spec):
    """A middle layer of the expert, read through the expert's own norm and head."""

    kind: Literal["early_exit"]
    layer: Count
    temperature: Positive = 1.0


class QuantizedAmateur(Spec):
    """The expert with rounded weights."""

    kind: Literal["quantized"]
    bits: Literal[4, 8]
    temperature: Positive = 1.0


class TruncatedContextAmateur(Spec):
    """The expert, seeing only the last tokens."""

    kind: Literal["truncated_context"]
    tokens: Count
    temperature: Positive = 1.0


class NgramAmateur(Spec):
    """A smoothed n-gram model of the train split."""

    kind: Literal["ngram"]
    order: Annotated[int, Field(ge=1, le=8)]
    temperature: Positive = 1.0


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
    """One summand of `method: weighted_sum`."""

    weight: float
    path: Path | None = Field(default=None, strict=False)
    hf: HubModel | None = None


class Decode(Spec):
    """How a token is chosen from two models' logits (arXiv 2510.08245, section 3)."""

    method: Literal["contrastive", "head_only", "sample", "weighted_sum"] = "contrastive"
    """contrastive: log p_G - lambda log p_B inside the head; head_only: log p_G there; sample: log p_G everywhere."""
    lambda_: Annotated[float, Field(ge=0.0, alias="lambda")] = 1.0
    """Weight of the amateur."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """The head: tokens with p_G more than alpha times the largest p_G."""
    temperature: Positive = 1.0
    """Divides both models' logits before softmax; the head is taken on that p_G."""
    score_temperature: Positive = 1.0
    """Divides the score after the mask."""
    top_k: Count | None = None
    """Keep the k largest scores, after the mask; for sample: of p_G."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Keep the smallest set of scores whose share exceeds p, after the mask."""
    no_repeat_ngram: Count | None = None
    """Forbid a second occurrence of any n-gram, over prefix and completion."""
    outside_head: OutsideHead = "-inf"
    """Score outside the head: -inf, a number (the reference code: -20) or tail."""
    log_epsilon: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to probabilities before the logarithm (the reference code: 1.0e-10)."""
    models: Annotated[tuple[WeightedModel, ...], Field(strict=False)] | None = None
    """The summands of weighted_sum."""


class Preflight(Spec):
    """A look at expert and amateur before decoding."""

    min_gap_nats: Annotated[float, Field(ge=0.0)] = 0.05
    action: Literal["warn", "stop"] = "warn"


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
    threads: Count = 2
    """CPU threads of a job; more cores mean more jobs."""
    weights_dtype: Precision = "bfloat16"
    cache_dtype: Precision = "bfloat16"

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        if self.rows_per_batch % self.completions:
            raise ValueError(
                f"rows_per_batch must be a multiple of completions, found {self.rows_per_batch} and {self.completions}"
            )
        return self


class Contamination(Spec):
    """Overlap with evaluation sets."""

    against: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    ngram: Count = 13
    action: Literal["flag", "drop", "keep"] = "drop"


class Filters(Spec):
    """What keeps a decoded document out of the mix."""

    exact_dedup: bool = True
    min_tokens: Annotated[int, Field(ge=0)] = 8
    max_repetition: Share = 0.5
    contamination: Contamination | None = None


class AlsoCorpus(Spec):
    """Another synthetic corpus in the mix."""

    corpus: Path = Field(strict=False)
    share: Annotated[float, Field(gt=0.0, lt=1.0)]


class Mix(Spec):
    """How real and synthetic text are put together."""

    synthetic: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Share of synthetic tokens, exact."""
    also: Annotated[tuple[AlsoCorpus, ...], Field(strict=False)] = ()
    unit: Literal["tokens", "documents"] = "tokens"
    size: Literal["real_once", "synthetic_once"] | Count = "real_once"
    """real_once: the real train text once, and as much synthetic text as the share asks for."""
    repeat: Literal["error", "allow"] = "error"
    """When the synthetic text is too short."""
    materialize: bool = True
    """Write mixed shards."""
    seed: Seed = 42


class Shards(Spec):
    """The files."""

    documents: Count = 4096
    """Documents per real or mixed shard; at least 8 mixed shards are written."""
    tokens: Literal["npy"] = "npy"
    """How token ids are stored."""


class Recipe(Spec):
    """One corpus, complete in one file."""

    version: Literal[1]
    name: Name
    """The default output folder is shards/<name>."""
    description: str = ""
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
        train = self.expert.train
        if isinstance(self.amateur, CheckpointAmateur):
            if train is None:
                raise ValueError(
                    "amateur.checkpoint needs an expert that is trained here; use kind: model with a path"
                )
            if self.amateur.checkpoint not in train.checkpoints():
                raise ValueError(
                    f"amateur.checkpoint {self.amateur.checkpoint} is never written; {_checkpoints_help(train)}"
                )
        if self.decode.method == "contrastive" and isinstance(self.amateur, NoAmateur):
            raise ValueError(
                "decode.method contrastive needs an amateur; use head_only or sample with kind: none"
            )
        length = self.generate.prefix_tokens + self.generate.new_tokens
        if train is not None and length > train.context:
            raise ValueError(
                f"generate.prefix_tokens + new_tokens must fit expert.train.context, found {length} and {train.context}"
            )
        return self
