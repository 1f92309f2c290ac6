"""Options that take one value take it once: of two devices, the first must not be dropped without a word."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Once(TyperCommand):
    """A command that refuses a repeated option, unless that option may be repeated or is a switch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen = set()
        for given in order:
            several = getattr(given, "multiple", False) or getattr(given, "is_flag", False)
            if given.param_type_name == "option" and not several and given.name in seen:
                ctx.fail(f"'{given.opts[0]}' is given twice; it takes one value")
            seen.add(given.name)
        return super().parse_args(ctx, args)
