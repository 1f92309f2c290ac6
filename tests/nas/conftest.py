"""Makes `nas_fakes` importable."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a fake search's time: only the tests that look at pictures do it."""
    if "page" not in request.node.name:
        for module in ("report_figure", "report_page"):
            monkeypatch.setattr(f"hardsight.nas.{module}.figure_png", lambda *_: b"\x89PNG")
