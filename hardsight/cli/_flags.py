"""Flags that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL.onnx", help="ONNX files; their weights may be missing.")
]
DeviceName = Annotated[
    str, typer.Option("--device", "-d", metavar="NAME", help="Device, as 'hardsight devices' lists them.")
]
ShapeTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="INPUT=DIMS", help="Shape of a dynamic input: in=1,3,224,224; may be repeated."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Level = Annotated[float, typer.Option("--level", metavar="P", help="Nominal coverage of the intervals.")]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Data set to use; by default the one that comes with the package."
    ),
]
PredictorNames = Annotated[
    list[str] | None,
    typer.Option("--predictor", metavar="NAME", help="Predictor to use; may be repeated; by default all."),
]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Groups of families to hold out in turn.")]
Track = Annotated[bool, typer.Option("--track/--no-track", help="Log the run to MLflow.")]
