from __future__ import annotations

import pytest

from hardsight.progress import progress_bars


def test_a_log_gets_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        for i in range(101):
            progress("work", i, 100)
        progress("nothing", 0, 0)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "work: 0 of 100"
    assert lines[-2:] == ["work: 100 of 100", "nothing: 0 of 0"]
    assert len(lines) == 12
