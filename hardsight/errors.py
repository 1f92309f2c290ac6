"""Every error Hardsight raises on purpose, with the exit code and HTTP status it maps to.

::

    HardsightError                      exit 3   500
    ├── InputError (ValueError)         exit 2   400   what was given cannot be used
    │   ├── ModelError                  exit 2   422   the ONNX file cannot be read
    │   ├── DataError                   exit 2   422   a data set or measurement file is unusable
    │   ├── JobError                    exit 2   422   a job file is wrong
    │   └── UnknownNameError            exit 2   404   no device, predictor, space … of that name
    ├── NotCalibratedError              exit 4   409   the device is known but not yet measured
    ├── NotSupportedError               exit 4   422   nothing here predicts that metric there
    │   └── NotCoveredError (KeyError)  exit 4   422   an answer does not hold that metric
    ├── BackendError (RuntimeError)     exit 5   503   a runtime, compiler or optional package is missing or failed
    └── StorageError (OSError)          exit 6   507   disk full, no permission, torn or foreign folder

Exit code 1 is no error: it is `hardsight check` saying that a budget is broken.
A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HardsightError(Exception):
    """Root of the tree; catch it to catch everything Hardsight raises on purpose."""

    exit_code = 3
    http_status = 500


class InputError(HardsightError, ValueError):
    """What was given cannot be used."""

    exit_code = 2
    http_status = 400


class ModelError(InputError):
    """An ONNX file that cannot be read, with the reason."""

    http_status = 422


class DataError(InputError):
    """A data set or a file of measurements that cannot be used."""

    http_status = 422


class JobError(InputError):
    """A job file with a wrong key or value."""

    http_status = 422


class UnknownNameError(InputError):
    """A name that is in no registry; the message lists the choices.

    Args:
        kind: what was looked up, for example ``"device"``.
        name: the name given.
        choices: the names there are.
        hint: what to do, as a full sentence.
    """

    http_status = 404

    def __init__(self, kind: str, name: str, choices: Iterable[str], hint: str = "") -> None:
        known = sorted(choices)
        lowered = {choice.lower(): choice for choice in known}
        near = get_close_matches(str(name).lower(), lowered, n=1)
        guess = f" Did you mean '{lowered[near[0]]}'?" if near else ""
        listed = ", ".join(known) if known else "none"
        super().__init__(f"unknown {kind} '{name}'.{guess} Known: {listed}. {hint}".rstrip())


class NotCalibratedError(HardsightError):
    """The device is known, but no measurement ties the predictor to it yet."""

    exit_code = 4
    http_status = 409


class NotSupportedError(HardsightError):
    """No predictor here covers the metric on the device."""

    exit_code = 4
    http_status = 422


class NotCoveredError(NotSupportedError, KeyError):
    """An answer does not hold the metric asked for; a KeyError, so that ``.get`` and ``in`` work."""

    __str__ = Exception.__str__  # a KeyError's would add quotes


class BackendError(HardsightError, RuntimeError):
    """A runtime, a compiler or an optional package is missing or failed."""

    exit_code = 5
    http_status = 503


class StorageError(HardsightError, OSError):
    """Disk full, no write permission, or a folder that is torn or of another schema."""

    exit_code = 6
    http_status = 507
