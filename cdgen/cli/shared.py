"""What several verbs share: the app, their arguments, and how they print."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cdgen.errors import StoppedError

_GO_ON = ("build", "preview", "train", "eval", "sweep", "publish")
"""The verbs that find what an interrupted one has done."""


class _Verbs(TyperGroup):
    """The verbs, two things otherwise than typer does them: examples in their help, and Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """What the verb returns. StoppedError: it was interrupted; typer would end without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in _GO_ON
            then = "; the same command goes on from here" if goes_on else ""
            raise StoppedError(f"interrupted{then}") from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Of this name. A paragraph that begins with a backspace is not filled: an example must stay one line."""
        verb = super().get_command(ctx, cmd_name)
        if verb is not None:
            verb.help = (verb.help or "").replace("\n\nExample:", "\n\n\b\nExample:")
        return verb


app = typer.Typer(
    name="cdgen",
    cls=_Verbs,
    help="Synthetic pre-training corpora made by contrastive decoding.\n\nExample: cdgen build quickstart",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a packaged one.")
]
CorpusPath = Annotated[Path, typer.Argument(metavar="DIR", help="A corpus folder.")]
CorpusDir = Annotated[str, typer.Argument(metavar="DIR", help="A corpus folder.")]
"""As text: an address must reach the verb, which refuses it by name."""
CorpusAt = Annotated[
    str, typer.Argument(metavar="DIR|URL", help="A corpus folder or the address of one.")
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="The corpus folder, or s3://BUCKET/FOLDER, gs://…; shards/<recipe name> by default.",
    ),
]
Builder = Annotated[
    str | None,
    typer.Option(help="A builder profile, or the name of a packaged one; this process by default."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field, such as mix.synthetic=0.4 or text.sources[0].path=a.txt; may be repeated.",
    ),
]


def named(kind: Literal["recipes", "builders"], name: str) -> Path:
    """A file, or what is packaged under a name, such as quickstart or paper/cd-early-500."""
    from cdgen.resources import names, resource

    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    return Path(name) if "/" in name and name not in names(kind) else resource(kind, name)


def show(facts: dict[str, Any], text: str, as_json: bool) -> None:
    """Print for people, or for programs."""
    print(json.dumps(facts, indent=1, ensure_ascii=False, default=str) if as_json else text)
