"""Reading a user's YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hardsight.errors import JobError, StorageError


def read_yaml(path: Path, what: str) -> Any:
    """What a file holds.

    Args:
        path: of the file.
        what: it is, for messages: ``job``.

    Raises:
        JobError: no such file, no YAML, a key that stands twice.
        StorageError: when it cannot be read.
    """
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise JobError(f"{what} file '{path}' does not exist; docs/job.md explains what it holds") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{what} file '{path}' cannot be read: {error}") from error
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise JobError(
            f"{what} file '{path}' is not YAML as expected: {' '.join(str(error).split())}"
        ) from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses a key that stands twice in a mapping, of which YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(
                        f"the key '{key.value}' stands twice, again in line {line}; keep one"
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
