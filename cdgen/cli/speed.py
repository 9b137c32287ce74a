"""The verb that measures decoding."""

from typing import Annotated, Literal

import typer

from cdgen.cli.shared import Json, app, show


@app.command()
def bench(
    size: Annotated[
        Literal["tiny", "quickstart", "cpu", "gpu"],
        typer.Option(help="The models and rows to measure; gpu needs a CUDA device."),
    ] = "cpu",
    part: Annotated[
        list[str] | None, typer.Option(help="Only this row of the table; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 2,
    rows: Annotated[
        int | None, typer.Option(min=8, help="Rows of a batch; the size's own by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure decoding on this machine beside other loops and the hardware's floor; takes minutes.

    Example: cdgen bench --size quickstart
    """
    from cdgen.decode.bench.run import measure, table

    found = measure(size, parts=part or (), threads=threads, rows=rows)
    show(found, table(found), as_json)
