"""`--set` is held to the same rules as the file, and the kept recipe says what was built."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL_RECIPE

from cdgen.errors import UsageError
from cdgen.recipes.digests import Inputs, digests
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.nodes import compose, values_of
from cdgen.recipes.overrides import parse_override, set_in_text, set_in_tree
from cdgen.resources import names, resource


def written(folder: Path, text: str = SMALL_RECIPE) -> Path:
    """A recipe file with this text."""
    file = folder / "r.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def reread(folder: Path, file: RecipeFile) -> RecipeFile:
    """The recipe that a corpus would keep of `file`, read as a file of its own."""
    kept = folder / "kept.yaml"
    kept.write_text(file.text, encoding="utf-8")
    return load_recipe(kept)


def test_nothing_set_leaves_the_text_as_it_is(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path)).text == SMALL_RECIPE


CHANGES = [
    ["mix.synthetic=0.4"],
    ["mix.synthetic=0.25", "decode.lambda=0.5"],
    ["text.sources[0].path=/elsewhere/other.txt"],
    ["text.sources[1]={name: more, path: more.txt, license: MIT}"],
    ["generate.limit_prefixes=7"],
    ["decode={method: sample}"],
    ["amateur={kind: none}", "decode.method=head_only"],
    ["tokenizer=null"],
    ["tokenizer="],
    ["description=a, b:c # d"],
    ["description='it: says, \"so\" # really'"],
    ["description=no-one"],
    ['description="1e-3"'],
    ["description=2026-01-02"],
    ["description=12:30"],
    ["expert.train.learning_rate=1.0e-10"],
    ["decode.outside_head=-20", "decode.log_epsilon=1.0e-10"],
    ["mix={}", "mix.synthetic=0.35"],
    ['description="a\\x85b\\u2028c \u00e9 \\U0001F600 \\0"'],
    ["description='größer'"],
]


@pytest.mark.parametrize("changes", CHANGES, ids=[" ".join(change)[:40] for change in CHANGES])
def test_the_kept_recipe_is_the_recipe_that_was_built(tmp_path: Path, changes: list[str]) -> None:
    """The same fields and so the same digests, and every line that was not touched is still there."""
    file = load_recipe(written(tmp_path), set=changes)

    kept = reread(tmp_path, file)

    assert kept.recipe == file.recipe != load_recipe(written(tmp_path)).recipe
    inputs = Inputs(sources={"tales": "ab" * 32, "more": "cd" * 32})
    assert asdict(digests(kept.recipe, inputs, engine=1)) == asdict(
        digests(file.recipe, inputs, engine=1)
    )


def test_what_is_set_is_what_is_read(tmp_path: Path) -> None:
    """Values are YAML: numbers, text, lists and mappings; a path may go through lists."""
    file = load_recipe(
        written(tmp_path),
        set=[
            "mix.synthetic=0.4",
            "text.sources[0].path=other.txt",
            "text.sources[1]={name: dev, path: dev.txt, license: MIT, only: eval}",
            "generate.limit_prefixes=3",
        ],
    )

    recipe = file.recipe
    assert recipe.mix.synthetic == 0.4
    assert [str(source.path) for source in recipe.text.sources] == ["other.txt", "dev.txt"]
    assert recipe.generate.limit_prefixes == 3


COMMENTED = """\
# yaml-language-server: $schema=recipe.schema.json
version: 1          # the only one
name: small
text:
  # where it comes from
  sources:
    - name: tales   # a short name
      path: tales.txt
      license: Apache-2.0   # SPDX
    # no more
  splits: {train: 0.5, eval: 0.1,   # two
           prefix: 0.4}   # and the third
expert:
  train: {layers: 2, hidden: 32, heads: 2, kv_heads: 1, context: 512,
    steps: 12, batch_tokens: 512, warmup_steps: 2, checkpoint_every: 4,
  }
amateur: {kind: checkpoint, checkpoint: 4}
description: >
  Folded,
  over two lines.

# the share
mix:
  synthetic: 0.3   # exactly
"""


@pytest.mark.parametrize(
    "change",
    [
        "mix.synthetic=0.4",
        "mix.seed=7",
        "description=other",
        "text.sources[0].name=legends",
        "text.sources[0].only=train",
        "text.sources[1]={name: b, path: b.txt, license: MIT}",
        "text.splits.seed=3",
        "text.max_document_tokens=100",
        "expert.train.seed=3",
        "generate.seed=3",
        "shards={documents: 5}",
        "tokenizer.train.vocab_size=300",
    ],
)
def test_comments_survive(tmp_path: Path, change: str) -> None:
    """Every comment of the file is in the kept recipe, with a line that names what was set."""
    file = load_recipe(written(tmp_path, COMMENTED), set=[change])

    comments = re.findall(r"#.*", COMMENTED)
    assert comments and all(comment in file.text for comment in comments)
    assert f"# Set on the command line: {change.partition('=')[0]}." in file.text
    assert reread(tmp_path, file).recipe == file.recipe


def test_no_value_is_repeated_in_the_note(tmp_path: Path) -> None:
    """A path of this machine stands only where the publisher looks for it."""
    file = load_recipe(written(tmp_path), set=["text.sources[0].path=/home/somebody/x.txt"])

    assert file.text.count("somebody") == 1


def test_setting_the_same_again_changes_nothing(tmp_path: Path) -> None:
    file = load_recipe(written(tmp_path), set=["mix.synthetic=0.4"])

    again = load_recipe(written(tmp_path, file.text), set=["mix.synthetic=0.4"])

    assert again.text == file.text


def test_a_text_that_cannot_be_edited_is_written_out_anew(tmp_path: Path) -> None:
    """Quoted keys with a literal block that keeps its blank lines: the result is still the same recipe."""
    odd = SMALL_RECIPE.replace(
        "description: A piece of the fairy tales, with models that are far too small.\n", ""
    ).replace("mix: {synthetic: 0.3, seed: 42}\nshards: {documents: 16}\n", "") + (
        '"shards":\n  "documents": 16\n"description": |+\n  kept\n\n\n'
    )
    file = load_recipe(written(tmp_path, odd), set=["mix.synthetic=0.35"])

    assert reread(tmp_path, file).recipe == file.recipe
    assert file.recipe.description == "kept\n\n\n"


MISTAKES = [
    (
        "decode.lamda=1",
        r"--set decode.lamda=1: unknown field 'decode.lamda' \(did you mean 'lambda'\?\)",
    ),
    (
        "decoed.lambda=1",
        r"--set decoed.lambda=1: unknown field 'decoed' \(did you mean 'decode'\?\)",
    ),
    (
        "expert.train.learning_rate=1e-3",
        r"must be a number, found 1e-3, which YAML 1.1 reads as text; write 1.0e-03",
    ),
    (
        "name=no",
        r"--set name=no: name: must be text, found no, which YAML reads as false; quote it",
    ),
    ("decode.alpha=1.5", r"--set decode.alpha=1.5: decode.alpha: must be less than 1, found 1.5"),
    ("amateur.checkpoint=5", r"--set amateur.checkpoint=5: amateur.checkpoint 5 is never written"),
    ("amateur.kind=nothing", r"--set amateur.kind=nothing: amateur.kind: must be one of "),
    ("mix=[1]", r"--set mix=\[1\]: mix: must be .*found a list"),
    ("mix={synthetic: 0.1, synthetic: 0.2}", r"synthetic is given twice"),
    ("mix={synthetic: ", r"--set mix={synthetic:: not valid YAML: "),
    ("name=!!python/name:os.system x", r"the tag 'python/name:os.system' is not allowed"),
    ("name=*a", r"aliases \(\*name\) are not allowed"),
    ("name=" + "[" * 30, r"nested deeper than 20 levels"),
    ("name.first=x", r"name is 'small', so it has no field 'first'"),
    ("text[0]=x", r"text is a mapping, not a list"),
    ("text.sources.path=x", r"text.sources is a list, so it has no field 'path'"),
    ("text.sources[2].path=x", r"text.sources has 1 entries; \[1\] adds one"),
    ("mix.size=synthetic_twice", r"--set mix.size=synthetic_twice: mix.size: must be "),
    ("mix.synthetic", r"--set mix.synthetic: must be field=value, such as --set mix.synthetic=0.4"),
    ("=1", r"must be field=value"),
    ("a..b=1", r"must be field=value"),
    (".a=1", r"must be field=value"),
    ("[0]=1", r"must be field=value"),
    ("a b=1", r"must be field=value"),
]


@pytest.mark.parametrize(("change", "expected"), MISTAKES, ids=[case[0][:30] for case in MISTAKES])
def test_a_mistake_is_named_with_the_option(tmp_path: Path, change: str, expected: str) -> None:
    """The same sentences as in a file, on one line, with the option as the place."""
    with pytest.raises(UsageError) as caught:
        load_recipe(written(tmp_path), set=[change])

    message = str(caught.value)
    assert message.startswith("--set ") and "\n" not in message
    assert re.search(expected, message), message


def test_a_field_set_twice_is_refused(tmp_path: Path) -> None:
    """As a key given twice in a file is."""
    with pytest.raises(UsageError, match=r"--set mix.seed=2: mix.seed is given twice"):
        load_recipe(written(tmp_path), set=["mix.seed=1", "mix.seed=2"])


def test_a_mistake_in_the_file_comes_first_and_keeps_its_place(tmp_path: Path) -> None:
    """file:line:column for the file's, and the count of the others."""
    wrong = SMALL_RECIPE.replace("alpha: 0.1", "aplha: 0.1")

    with pytest.raises(UsageError, match=r"r.yaml:15:44: unknown field .*\(and 1 more\)$"):
        load_recipe(written(tmp_path, wrong), set=["mix.sed=1"])


def test_every_packaged_recipe_takes_a_change(tmp_path: Path) -> None:
    """With its comments."""
    for name in names("recipes"):
        if "/runs/" in name or name.endswith((".sweep", "/run")):
            continue  # a run file, a sweep
        file = load_recipe(
            resource("recipes", name), set=["mix.seed=7", "generate.limit_prefixes=5"]
        )

        original = resource("recipes", name).read_text(encoding="utf-8")
        assert [line for line in re.findall(r"#.*", original) if line not in file.text] == []
        assert reread(tmp_path, file).recipe == file.recipe


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.from_regex(r"\A[a-z_]{1,6}\Z"), inner, max_size=3
    ),
    max_leaves=6,
)  # fmt: skip
FIELD = st.sampled_from(
    ["a", "b", "a.b", "c[0]", "c[1]", "d.e", "d.e.f", "c[0].x", "new", "new.er", "d.l[0]"]
)
TREE = "# top\na: 1   # one\nb: {x: 1, y: [1, 2]}\nc:\n  - x: 1   # first\n    y: 2\nd:\n  e: text\n  l: [1,\n    2]\n"


@given(field=FIELD, value=PLAIN)
@cases(1500)
def test_text_and_tree_agree(field: str, value: object) -> None:
    """Naive reference: the tree. Wherever the text can be edited, it reads back as the tree does."""
    option = f"{field}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...').strip()}"
    root = compose(TREE, "tree")
    assert root is not None
    try:
        override = parse_override(option)
        set_in_tree(root, override)
    except UsageError:
        return

    expected, _ = values_of(root)
    edited = compose(set_in_text(TREE, parse_override(option)), "edited")

    assert edited is not None and values_of(edited)[0] == expected


@given(option=st.text(max_size=60))
@cases(1500)
def test_any_option_is_a_change_or_one_line(tmp_path: Path, option: str) -> None:
    """Never another exception."""
    file = written(tmp_path)

    message = ""
    try:
        load_recipe(file, set=[option, f"mix.seed={option}"])
    except UsageError as error:
        message = str(error)

    assert len(message.splitlines()) <= 1
