"""Public tables of measurements: where they are, what they may be used for, and how to read them.

Nothing of them is in the package. ``hardsight dataset fetch NAME`` downloads one; a folder of converted copies
that the environment variable ``HARDSIGHT_DATA`` names is used as well.
"""

from __future__ import annotations

from hardsight.datasets.sources._base import RemoteFile, Source
from hardsight.progress import Progress
from hardsight.registry import find

__all__ = ["SOURCES", "RemoteFile", "Source", "get_source"]

SOURCES = {
    "wa-hls4ml": "hardsight.datasets.sources.wa_hls4ml:WaHls4ml",
    "ntorc": "hardsight.datasets.sources.ntorc:NTorc",
    "accel-nasbench": "hardsight.datasets.sources.accel_nasbench:AccelNasBench",
    "ec-nas": "hardsight.datasets.sources.ecnas:EcNas",
    "ec-nas-7v": "hardsight.datasets.sources.ecnas:EcNas7v",
    "timm": "hardsight.datasets.sources.timm_throughput:TimmThroughput",
    "perfcastdb": "hardsight.datasets.sources.perfcastdb:PerfCastDb",
    "help-nb201": "hardsight.datasets.sources.help:HelpNb201",
    "help-fbnet": "hardsight.datasets.sources.help:HelpFbnet",
    "help-ofa": "hardsight.datasets.sources.help:HelpOfa",
    "nb201-accuracy": "hardsight.datasets.sources.nb201_accuracy:Nb201Accuracy",
    "nb201-zero-cost": "hardsight.datasets.sources.nb201_accuracy:Nb201ZeroCost",
    "hat": "hardsight.datasets.sources.hat:Hat",
    "tf-nas": "hardsight.datasets.sources.tfnas:TfNas",
    "nas-bench-macro": "hardsight.datasets.sources.nas_bench_macro:NasBenchMacro",
}
"""One line per source: short name to ``module:Class``."""


def get_source(name: str, progress: Progress | None = None) -> Source:
    """The source of that name.

    Raises:
        UnknownNameError: listing the names there are.
    """
    source = find("source", name, SOURCES, "See 'hardsight dataset sources'.")(progress)
    assert isinstance(source, Source)
    return source
