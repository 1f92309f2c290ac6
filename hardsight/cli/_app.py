"""The table of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from hardsight import __version__
from hardsight.cli import (
    adapt,
    check,
    compare,
    dataset,
    devices,
    evaluate,
    experiments,
    explain,
    kit,
    measure,
    predict,
    quantize,
    search,
    train,
)
from hardsight.cli._one_device import OneDevice

app = typer.Typer(
    name="hardsight",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help reads the same on every terminal, and in docs/cli.md
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hardsight {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """What a neural network costs on a device before it runs there.

    Exit codes: 0 done; 1 a budget is broken (check); 2 bad input; 4 not calibrated or not covered;
    5 a runtime failed; 6 disk or permission; 70 a fault of Hardsight; 130 interrupted.
    """


for _command in (
    predict.predict,
    explain.explain,
    compare.compare,
    measure.measure,
    devices.devices,
    adapt.adapt,
    kit.kit,
    train.train,
    evaluate.evaluate,
    quantize.quantize,
    check.check,
):
    app.command(cls=OneDevice)(_command)
app.add_typer(search.app, name="search")
app.add_typer(dataset.app, name="dataset")
app.add_typer(experiments.app, name="experiments")
