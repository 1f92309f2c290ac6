"""``python -m hardsight`` is the ``hardsight`` command."""

from hardsight.cli import run

run()
