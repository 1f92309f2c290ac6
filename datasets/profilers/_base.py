"""The contract of a device backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hardsight.device import Device
from hardsight.measurement import Measurement
from hardsight.metrics import Metric

if TYPE_CHECKING:
    import onnx


class Profiler(ABC):
    """Measures models on one kind of device.

    Args:
        cache: folder for what one model needs on several devices; None makes it again each time.
    """

    anywhere: ClassVar[bool] = False
    """Whether any machine will do: true of simulators and synthesis."""
    takes_qdq: ClassVar[bool] = False
    """Whether models quantized as QDQ run as they are; ``int8-…`` modes of the CPU runtimes then use ours."""

    quantizes_anew: ClassVar[bool] = False
    """Whether, in ``int8`` modes, it quantizes the float model behind one in QDQ form."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    @abstractmethod
    def check(self) -> None:
        """Return when this machine can run the backend.

        Raises:
            BackendError: with the reason in one sentence.
        """

    @abstractmethod
    def measure(
        self,
        model: Path | onnx.ModelProto,
        device: Device,
        metrics: Sequence[Metric] | None = None,
        *,
        budget_s: float = 10.0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Measurement]:
        """Run the model and return one label per metric.

        Args:
            model: an ONNX file, or a model in memory; missing weights are filled at random (noted in ``versions``).
            device: mode to measure, for example ``host/onnxruntime/int8-t1``.
            metrics: what to measure; None means everything this backend can.
            budget_s: time for the repeats of this model, loading apart.
            shapes: input name to shape, for dynamic inputs.

        Raises:
            ModelError: when the model cannot be read.
            BackendError: when the runtime refuses, crashes or outlives its time.
        """

    def unavailable(self) -> dict[Metric, str]:
        """Metrics this backend knows but cannot measure here, each with the reason."""
        return {}
