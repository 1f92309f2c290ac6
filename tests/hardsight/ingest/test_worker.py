"""Native code runs in a process of its own; its death is a ModelError and the next model reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hardsight.errors import ModelError
from hardsight.ingest import read_onnx
from hardsight.ingest.client import WORKER, Worker, WorkerCrash, WorkerRefusal
from hardsight.ingest.worker import INFER, READY

TEXT = "g (float[1,8] x) => (float[1,8] y) { h = Exp(x)  y = Neg(h) }"  # needs native inference


def test_it_is_started_once_and_restarted_after_its_death(model):
    WORKER.close()
    read_onnx(model(TEXT))
    first = WORKER.pid
    read_onnx(model(TEXT))
    assert WORKER.pid == first
    os.kill(first, signal.SIGKILL)
    assert len(read_onnx(model(TEXT))) == 2
    assert WORKER.pid not in (None, first)


# ONNX 1.23 reads past the end of a list here: fewer parts than outputs.
CRASHER = """g (float[6] x) => (float[a] p, float[b] q, float[c] r) {
    p, q, r = Split<axis=0, num_outputs=2>(x)
}"""


def test_a_model_that_crashes_native_inference(model):
    with pytest.raises(ModelError, match=r"'bad' (is malformed|contradicts itself)"):
        read_onnx(model(CRASHER, opset=18), name="bad")
    assert len(read_onnx(model(TEXT))) == 2


def test_what_kills_the_worker_twice_is_a_crash(monkeypatch):
    worker = Worker()
    starts = []
    start = Worker._start

    def dying(self):
        start(self)
        starts.append(self.pid)
        os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "_start", dying)
    with pytest.raises(WorkerCrash, match="crashed"):
        worker.ask(READY, b"")
    assert len(starts) == 2


def test_no_answer_in_time_is_a_crash():
    worker = Worker()
    worker.ask(READY, b"")
    os.kill(worker.pid, signal.SIGSTOP)
    worker.timeout_s = 0.2
    with pytest.raises(WorkerCrash, match=r"took over 0\.2 s"):
        worker.ask(READY, b"")
    assert worker.pid is None


def test_what_is_no_model_is_refused_and_the_worker_lives():
    read = Worker()
    with pytest.raises(WorkerRefusal):
        read.ask(INFER, b"\xff\xff\xff")
    pid = read.pid
    assert read.ask(READY, b"") == b""
    assert read.pid == pid
    read.close()
    assert read.pid is None


def test_it_ends_with_its_parent(model):
    code = (
        "import os, signal\n"
        "from hardsight.ingest.client import WORKER\n"
        "from hardsight.ingest.worker import READY\n"
        "WORKER.ask(READY, b'')\n"
        "print(WORKER.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if not _alive(pid):
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_threads_share_it(model):
    results: list[str] = []
    proto = model(TEXT)
    threads = [threading.Thread(target=lambda: results.append(read_onnx(proto).digest)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_gets_its_own(model):
    proto = model(TEXT)
    read_onnx(proto)
    child = os.fork()
    if child == 0:
        try:
            before = WORKER.pid
            size = len(read_onnx(proto))
            os._exit(0 if before is None and size == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(read_onnx(proto)) == 2
