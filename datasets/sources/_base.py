"""The contract of a public table, and what all readers of one need."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from hardsight.device import Device
from hardsight.errors import DataError, NotSupportedError
from hardsight.measurement import COLUMNS, MAY_BE_ZERO, MeasurementTable
from hardsight.metrics import Metric
from hardsight.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

DATA = "HARDSIGHT_DATA"
"""Environment variable: a folder of converted copies, one subfolder per source."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the original publication.

    Args:
        name: where it goes below the folder of originals; may hold slashes.
        url: pinned to a commit or a version, so that it cannot change.
        sha256: 64 hex digits, or None where no checksum was ever published or taken: the first download then
            writes down what it got, and says that it was not verified.
        size: bytes, or None where not known.
    """

    name: str
    url: str
    sha256: str | None = None
    size: int | None = None


def github(repository: str, commit: str, path: str, **known: Any) -> RemoteFile:
    """A file of a GitHub repository at a commit; ``known`` holds its ``sha256``, ``size`` or another ``name``."""
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path.replace(' ', '%20')}"
    return RemoteFile(**{"name": path.rsplit("/", 1)[-1], "url": url, **known})


class Source(ABC):
    """A public table: where the originals are, and how they become measurements.

    There are two steps, so that a download is taken apart once: `convert` writes the originals as plain csv,
    npz or json files, `process` reads those. The plain files of a source may also have been put somewhere by hand.

    Attributes:
        name: key in `SOURCES`.
        folder: name of the plain copy below ``HARDSIGHT_DATA``.
        files: the originals.
        plain: files that a plain copy holds, at the least.
        licence: SPDX identifier, with the holder where a licence is asked for by name.
        citation: of the paper or project to credit.
        rows: of the table as published (architectures or configurations, not labels).
        devices: what the labels are of.

    Args:
        progress: told about what takes longer than reading a file: computing digests of thousands of graphs.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    files: ClassVar[tuple[RemoteFile, ...]]
    plain: ClassVar[tuple[str, ...]]
    licence: ClassVar[str]
    citation: ClassVar[str]
    rows: ClassVar[int]
    devices: ClassVar[tuple[Device, ...]] = ()

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress

    @abstractmethod
    def convert(self, raw: Path, out: Path) -> None:
        """Write the originals in ``raw`` as plain files into the existing folder ``out``, running no code of theirs.

        Raises:
            DataError: an original is not what it should be.
        """

    @abstractmethod
    def table(self, folder: Path) -> pd.DataFrame:
        """The plain table with types, one row per published row; columns and units as its README says.

        Raises:
            DataError: a plain file is missing or has other columns.
        """

    def process(self, folder: Path) -> MeasurementTable:
        """Labels in SI units, tied to graphs that are built when asked for.

        Raises:
            NotSupportedError: the rows are of no network whose graph can be known; the message says why.
            DataError: a plain file is missing or has other columns.
        """
        raise NotSupportedError(
            f"the rows of '{self.name}' name no graph that a label could be tied to; read them with table()"
        )

    def load(self, folder: Path | None = None) -> MeasurementTable:
        """`process` of wherever the plain copy is (see `find`)."""
        return self.process(self.find(folder))

    def find(self, folder: Path | None = None) -> Path:
        """The plain copy: in ``folder`` if given, else below ``HARDSIGHT_DATA``, else where it was fetched to.

        Raises:
            DataError: it is in none of them; says how to fetch it.
        """
        places = [folder] if folder is not None else self._places()
        for place in places:
            if all((place / name).is_file() for name in self.plain):
                return place
        raise DataError(
            f"the public table '{self.name}' is not in {' or '.join(map(str, places))}; "
            f"get it with 'hardsight dataset fetch {self.name}'"
        )

    def _places(self) -> list[Path]:
        given = [Path(os.environ[DATA]) / self.folder] if os.environ.get(DATA) else []
        return [*given, plain_folder(self.name)]


def cache_folder() -> Path:
    """Folder for what can be made again: ``HARDSIGHT_HOME/cache``, or the platform's cache folder."""
    if "HARDSIGHT_HOME" in os.environ:
        return Path(os.environ["HARDSIGHT_HOME"]) / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("hardsight")


def plain_folder(name: str) -> Path:
    """Where the fetched and converted copy of a source goes."""
    return cache_folder() / "sources" / name / "plain"


def read_csv(path: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """A csv file that must have these columns; other options as in `pandas.read_csv`.

    Raises:
        DataError: it is missing, no csv, or lacks a column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error
    if missing := [c for c in columns if c not in frame.columns]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; fetch it again")
    return frame


def published(
    digests: Sequence[str],
    device: str,
    metric: Metric,
    values: npt.ArrayLike,
    *,
    spread: npt.ArrayLike = 0.0,
    repeats: npt.ArrayLike = 1,
    versions: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Rows of a `MeasurementTable` with the provenance "published".

    A NaN is a gap and gives no row. Several values of one graph give one: their median, with the spread among them.

    Args:
        digests: of the graphs, ``(n,)``.
        device: the labels' device.
        metric: what was published.
        values: in the metric's SI unit, ``(n,)``.
        spread: relative, one or ``(n,)``; 0 where none was published.
        repeats: one or ``(n,)``; 1 where nothing is known.
        versions: what is known of the tools and the origin.

    Raises:
        DataError: a value that no label can have: infinite, negative, or a time or an energy of zero.
    """
    import pandas as pd

    value = np.asarray(values, dtype=np.float64)
    bad = np.isinf(value) | (value < 0) | ((value == 0) & (metric not in MAY_BE_ZERO))
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} published values of {metric} on {device} cannot be labels, "
            f"for example {value[bad][0]}"
        )
    frame = pd.DataFrame(
        {
            "digest": list(digests),
            "device": device,
            "metric": str(metric),
            "value": value,
            "spread": np.broadcast_to(np.asarray(spread, dtype=np.float64), value.shape),
            "repeats": np.broadcast_to(np.asarray(repeats, dtype=np.int64), value.shape),
            "time": "",
            "versions": json.dumps(dict(versions or {}), sort_keys=True),
            "provenance": "published",
        },
        columns=list(COLUMNS),
    )
    return _one_per_graph(frame[~np.isnan(value)])


def _one_per_graph(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one device and metric, where a graph that comes several times has its median."""
    several = rows[rows.duplicated("digest", keep=False)].groupby("digest")
    merged = rows.drop_duplicates("digest").set_index("digest")
    for column, value in (
        ("value", several["value"].median()),
        ("spread", several["value"].agg(_spread)),
        ("repeats", several["repeats"].sum()),
    ):
        merged.loc[value.index, column] = value
    return merged.reset_index()[list(COLUMNS)]


def _spread(values: pd.Series) -> float:
    """Relative half-width of the median's 95 % interval; of a count that is zero, zero."""
    from hardsight.datasets.profilers._worker import median_spread

    return median_spread(list(values))[1] if values.median() else 0.0
