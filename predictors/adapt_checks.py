"""Measurements of a new device: what is refused, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hardsight.errors import DataError
from hardsight.measurement import MeasurementTable
from hardsight.metrics import Metric
from hardsight.predictors._base import Predictor
from hardsight.predictors.adapted import MIN_FOR_INTERVAL, AdaptedPredictor

_CONTRADICTORY = 1.5
_NOISY = 0.1
_MAX_LABEL_OFF = 50.0
_POOR_FIT = np.log(2)
# Few devices differ so much from all of their kind; one that is fast hides a part of 1,000.
_UNIT_OFF, _UNIT_ODD = 60.0, 15.0
_MISTAKEN = {
    ("s", 3): "milliseconds",
    ("s", 6): "microseconds",
    ("s", 9): "nanoseconds",
    ("J", 3): "millijoules",
    ("J", 6): "microjoules",
    ("B", -3): "kilobytes",
    ("B", -6): "megabytes",
}


def check_labels(table: MeasurementTable) -> list[str]:
    """Refuse labels that cannot be true of different networks; warn of those that tell little.

    Returns:
        Sentences for the user.

    Raises:
        DataError: contradictory or constant labels, or none above zero.
    """
    _refuse_impossible(table)
    _refuse_contradictions(table)
    notes = [note for metric in table.metrics for note in _constant(table, metric)]
    return [*notes, *_few(table), *_one_family(table), *_repeated(table), *_noisy(table)]


def _refuse_impossible(table: MeasurementTable) -> None:
    """Files are checked when they are read; tables made in Python are not."""
    values = table.rows["value"].to_numpy(np.float64)
    for i in np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[:1]:
        row = table.rows.iloc[i]
        raise DataError(
            f"{row['metric']} of graph {str(row['digest'])[:8]} is {values[i]:g}; expected a finite value, not below 0"
        )


def _refuse_contradictions(table: MeasurementTable) -> None:
    for (digest, metric), rows in table.rows.groupby(["digest", "metric"]):
        if rows["value"].max() > _CONTRADICTORY * rows["value"].min():
            raise DataError(
                f"graph {str(digest)[:8]} has contradictory values of {metric}: "
                f"{rows['value'].min():.4g} and {rows['value'].max():.4g}; remove one"
            )


def _constant(table: MeasurementTable, metric: Metric) -> list[str]:
    """A count may be the same for all, such as the arena of a small runtime; time and energy may not."""
    values = table.select(metric=metric).rows.groupby("digest")["value"].median()
    zeros = int((values == 0).sum())
    if zeros == len(values):
        raise DataError(f"every value of {metric} is 0; measure it, or remove it from the file")
    if len(values) < 3 or values.nunique() > 1:
        return [f"{zeros} of {len(values)} values of {metric} are 0 and not used"] if zeros else []
    same = f"all {len(values)} values of {metric} are {values.iloc[0]:.4g}"
    if not metric.integer:
        raise DataError(f"{same}; different networks cannot all cost the same: measure again")
    return [f"{same}: what other networks need is a guess"]


def _few(table: MeasurementTable) -> list[str]:
    samples = len(table.digests)
    if samples >= MIN_FOR_INTERVAL:
        return []
    counted = "1 measurement is" if samples == 1 else f"{samples} measurements are"
    return [f"{counted} too few for an interval ({MIN_FOR_INTERVAL} or more give one)"]


def _one_family(table: MeasurementTable) -> list[str]:
    """A network that the data set does not know belongs with those that are made of the same operators."""
    digests = table.digests
    if len(digests) < 2:
        return []
    known = {table.families.get(d, "") for d in digests}
    made_of = {frozenset(op.op_type for op in table.graphs[d].operators) for d in digests}
    if len(known) > 1 or ("" in known and len(made_of) > 1):
        return []
    family = next(iter(known))
    of = f"of one family ({family})" if family else "made of the same operators"
    return [
        f"all {len(digests)} networks are {of}: the error on other networks is unknown, and may be larger "
        "than stated; measure some of other families"
    ]


def _repeated(table: MeasurementTable) -> list[str]:
    repeats = table.rows[table.rows.duplicated(["digest", "metric"])]["metric"].value_counts()
    if not len(repeats):
        return []
    count = int(repeats.max())
    if count == 1:
        return ["1 line repeats a network; its median is used"]
    return [f"{count} lines repeat a network; their median is used"]


def _noisy(table: MeasurementTable) -> list[str]:
    timings = table.rows[table.rows["metric"] != str(Metric.PEAK_MEMORY)]
    noisy = int((timings["spread"] > _NOISY).sum())
    if not noisy:
        return []
    return [
        f"{noisy} of {len(timings)} timings have a spread above 10 %: the machine was busy; "
        "measure again for a better fit"
    ]


def check_units(
    predictor: Predictor, known: Sequence[str], table: MeasurementTable, name: str, *, trusted: bool = False
) -> list[str]:
    """Refuse values that are sixty times or more off those of every known device.

    Args:
        predictor: knows the devices.
        known: all that the new device may be held against.
        table: labels.
        name: of the new device, as in the table.
        trusted: the units are known to be right; then it is only said.

    Returns:
        Sentences for the user.

    Raises:
        DataError: unless trusted.
    """
    notes = []
    for metric in table.metrics:
        ratio = _nearest_ratio(predictor, known, table, name, metric)
        if 1 / _UNIT_ODD < ratio < _UNIT_ODD:
            continue
        said = f"the values of {metric} are {_times(ratio)} those of every known device"
        if 1 / _UNIT_OFF < ratio < _UNIT_OFF:
            notes.append(f"{said}; if that is not so, check that they are in {metric.unit}")
            continue
        if not trusted:
            raise DataError(
                f"{said}: {_guess(metric, ratio)}expected {metric.unit}; convert them, or give --trust-units if the "
                "device is like that"
            )
        notes.append(f"{said}; taken as they are")
    return notes


def _nearest_ratio(
    predictor: Predictor, known: Sequence[str], table: MeasurementTable, name: str, metric: Metric
) -> float:
    """The measured against the predicted, at the known device where that is nearest to 1; 1 where none knows."""
    graphs, label = table.labelled_above_zero(name, metric)
    off = [0.0]
    answers = [predictor.point(graphs, d, metric) for d in known if predictor.supports(d, metric)]
    if answers:
        off = [float(np.median(np.log(label / np.maximum(a, np.finfo(float).tiny)))) for a in answers]
    return float(np.exp(min(off, key=abs)))


def _times(ratio: float) -> str:
    rounded = f"{float(f'{max(ratio, 1 / ratio):.1g}'):,.0f}"
    return f"at least about {rounded} times" if ratio > 1 else f"at most about 1/{rounded} of"


def _guess(metric: Metric, ratio: float) -> str:
    """The unit that was probably meant, as a question; empty where none comes near."""
    power = 3 * round(float(np.log10(ratio)) / 3)
    unit = _MISTAKEN.get((metric.unit, power))
    return f"are they in {unit}, a factor of {10 ** abs(power):,}? " if unit else ""


def check_fits(fits: Mapping[Metric, AdaptedPredictor], table: MeasurementTable) -> list[str]:
    """Refuse a label that no device explains, for the fit itself is robust against one; warn of a poor fit.

    Raises:
        DataError: naming the network.
    """
    for metric, fit in fits.items():
        graphs, label = table.labelled_above_zero(fit.device, metric)
        ratio = label / fit.point(graphs, fit.device, metric)
        worst = int(np.argmax(np.abs(np.log(ratio))))
        if not 1 / _MAX_LABEL_OFF < ratio[worst] < _MAX_LABEL_OFF:
            raise DataError(
                f"{metric} of graph {graphs[worst].digest} is {label[worst]:.4g} {metric.unit}, {ratio[worst]:.3g} "
                "times what the other networks let expect; check its unit, measure it again or remove it"
            )
    return [
        f"the values of {metric} fit no known device well: each is off what the others let expect by a factor of "
        f"{np.exp(fit.fitted[metric].residual):.2g}; check them"
        for metric, fit in fits.items()
        if fit.fitted[metric].residual > _POOR_FIT
    ]
