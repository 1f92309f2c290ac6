"""The README's commands parse, its job file is valid, its tables have places."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from hardsight.cli import main
from hardsight.errors import InputError

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for block in re.findall(r"```\n(.*?)```", README, re.S)
        for line in block.splitlines()
        if line.startswith("hardsight ")
    }
    | set(re.findall(r"`(hardsight [^`]+)`", README))
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.split(">")[0])[1:]
    assert main([*words, "--help"]) == 0, capsys.readouterr().err


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 8


def test_the_job_file_is_valid() -> None:
    from hardsight.nas.job import parse_job

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    job = parse_job(yaml.safe_load(block))
    assert job.constraints == {"latency_s": 1e-3, "size_bytes": 400e3}


def test_tables_have_places() -> None:
    from hardsight.experiments.readme_tables import fill, markdown

    table = markdown(("a", "b"), [("1", "2")])
    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    for name in ("stock", "predictors", "dataset", "search", "onnx-models"):
        once = fill(README, name, table)
        assert fill(once, name, table) == once
    with pytest.raises(InputError, match="nonsense"):
        fill(README, "nonsense", table)
