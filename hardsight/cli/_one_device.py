"""A device is named once where one is asked: of two, the first must not be dropped without a word."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class OneDevice(TyperCommand):
    """A command that refuses a second ``--device``, unless it takes several; of other options the last one holds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        devices = [given for given in order if "--device" in given.opts]
        if len(devices) > 1 and not getattr(devices[0], "multiple", False):
            ctx.fail("'--device' is given twice; it takes one value")
        return super().parse_args(ctx, args)
