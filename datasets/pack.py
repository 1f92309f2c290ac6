"""From what builders have labelled to one data set: drift corrected, noise stated, twins shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hardsight.datasets.build import MAX_SPREAD, Builder, noisy
from hardsight.datasets.drift import corrected, drifts
from hardsight.datasets.journal import Cell, labels_of
from hardsight.datasets.repeats import repeatability, with_repeatability
from hardsight.datasets.store import StoredGraph, load_table, save_table
from hardsight.measurement import Measurement, MeasurementTable


def pack(
    builders: Iterable[Builder], folder: Path, *, rename: Mapping[str, str] | None = None
) -> MeasurementTable:
    """Write one data set from what several builders have labelled.

    On an ``int8-…`` mode of a runtime that quantizes with our static quantization, a float graph and its
    quantized twin both have the twin's label on the ``fp32-…`` mode of the same threads: the same file, run the
    same way. A twin of which only some layers are quantized runs there as it is, too, but is not what that mode makes
    of the float graph. What a builder could not label is no failure where another labelled it.

    Args:
        builders: graphs and journals.
        folder: of the data set.
        rename: device name as labelled to the name it ships under.

    Returns:
        The table, as read back.
    """
    graphs: dict[str, StoredGraph] = {}
    labels: dict[tuple[str, str, str], Measurement] = {}
    failures: dict[tuple[str, str, str], str] = {}  # of a metric, or where that is empty of the whole cell
    for builder in builders:
        own = {g.digest: g for g in builder.stored()}
        mixed = builder.mixed()
        graphs.update(own)
        first, again = rounds(builder.journal)
        half_widths = repeatability(first, again)
        clean = {(m.digest, m.device, m.metric): m for m in (*again, *first) if not noisy(m)}
        for m in first:
            if m.digest not in own:
                continue
            device = (rename or {}).get(m.device, m.device)
            if (m.digest, m.device, m.metric) not in clean:
                failures[m.digest, device, m.metric] = f"{m.metric}: its spread stayed above {MAX_SPREAD:.0%}"
                continue
            m = clean[m.digest, m.device, m.metric]  # of the second time, where the first was disturbed
            m = replace(with_repeatability(m, half_widths), device=device)
            labels[m.digest, device, m.metric] = m
            if (original := own[m.digest].twin) and "/fp32-" in device:
                mode = device.replace("/fp32-", "/int8-")
                for digest in (m.digest,) if m.digest in mixed else (m.digest, original):
                    labels[digest, mode, m.metric] = replace(m, device=mode, digest=digest)
        for (digest, device), reason in builder.journal.failures().items():
            if digest in own:
                failures[digest, (rename or {}).get(device, device), ""] = reason
    labelled = labels.keys() | {(digest, device, "") for digest, device, _ in labels}
    left = {key[:2]: reason for key, reason in failures.items() if key not in labelled}
    table = MeasurementTable.from_measurements(labels.values(), {})
    used = set(table.digests) | {digest for digest, _ in left}
    save_table(folder, [g for d, g in graphs.items() if d in used], table, left)
    return load_table(folder)


def rounds(cells: Iterable[Cell]) -> tuple[list[Measurement], list[Measurement]]:
    """Labels of the first round and of the second, each as the machine would have had it at its usual speed."""
    known = list(cells)
    slower = drifts(known)
    found: tuple[list[Measurement], list[Measurement]] = ([], [])
    for cell in known:
        again = bool(cell.get("again"))
        found[again].extend(
            corrected(m, slower.get((m.digest, m.device, again), 0.0)) for m in labels_of(cell)
        )
    return found
