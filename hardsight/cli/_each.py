"""Several models on one command line: a bad one is reported, the others are still answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import typer

from hardsight.cli._boundary import say
from hardsight.errors import BackendError, HardsightError, ModelError

T = TypeVar("T")


def each_model(models: Iterable[Path], ask: Callable[[Path], T]) -> Iterator[T]:
    """Answers in order. Afterwards, exits with the code of the first model that failed.

    Only what may be a model's own fault is survived; an unknown device, say, ends the command at once.
    """
    first: HardsightError | None = None
    for model in models:
        try:
            answer = ask(model)
        except (ModelError, BackendError) as error:
            say(str(error) if f"'{model}'" in str(error) else f"{model}: {error}")
            first = first or error
        else:
            yield answer
    if first is not None:
        raise typer.Exit(first.exit_code) from first
