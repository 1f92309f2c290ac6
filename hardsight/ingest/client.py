"""Talk to the worker process: started when first needed, again after a crash, ended with this process."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from hardsight.errors import BackendError, ModelError
from hardsight.ingest.words import quoted
from hardsight.ingest.worker import (
    CPU_LIMIT_S_PER_BYTE,
    OK,
    OUT_OF_TIME,
    READY,
    cpu_limit_s,
    receive,
    send,
)

TIMEOUT_S: Final = 8.0
_START_TIMEOUT_S: Final = 60.0


class WorkerCrash(Exception):
    """The worker died, or gave no answer in time."""


class WorkerDeath(WorkerCrash):
    """The worker died before it answered."""


class WorkerRefusal(Exception):
    """The worker says what is wrong with the model."""


class Worker:
    """One isolated process; safe to use from several threads and after a fork.

    Args:
        timeout_s: how long a small request may take on a busy machine, where the worker's own limit on
            processor time does not help; a large one takes longer in proportion.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, tag: bytes, payload: bytes) -> bytes:
        """Send one request and wait for its answer.

        Raises:
            WorkerRefusal: the request was understood and refused.
            WorkerCrash: native code crashed, ran out of memory or out of time.
        """
        timeout_s = self.timeout_s + len(payload) * CPU_LIMIT_S_PER_BYTE
        with self._lock:
            try:
                status, answer = self._attempt(tag, payload, timeout_s)
            except WorkerDeath:
                # It may have been killed from outside; only what kills it twice is to blame.
                status, answer = self._attempt(tag, payload, timeout_s)
        if status != OK:
            raise WorkerRefusal(answer.decode("utf-8", "replace"))
        return answer

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._stop()

    def forget(self) -> None:
        """In the child of a fork: the process, and the lock that a thread may hold, are the parent's."""
        self._process = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id while one runs."""
        return self._process.pid if self._process is not None and self._runs() else None

    def _attempt(self, tag: bytes, payload: bytes, timeout_s: float) -> tuple[bytes, bytes]:
        if not self._runs():
            self._start()
        return self._exchange(tag, payload, timeout_s)

    def _runs(self) -> bool:
        # After a fork the pipes belong to the parent.
        return self._owner == os.getpid() and self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([*(entry for entry in sys.path if entry), root])
        self._process = subprocess.Popen(
            # Where warnings are errors, that of starting a module that its package imports would be one.
            [sys.executable, "-P", "-W", "ignore", "-m", "hardsight.ingest.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Its address space is limited: no room for the buffers of a linear algebra that it never does.
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        self._owner = os.getpid()
        try:
            self._exchange(READY, b"", _START_TIMEOUT_S)
        except WorkerCrash as crash:
            raise BackendError(
                f"the process that reads ONNX models does not start ({crash}); "
                "check that 'python -m hardsight.ingest.worker' runs in this environment"
            ) from crash

    def _exchange(self, tag: bytes, payload: bytes, timeout_s: float) -> tuple[bytes, bytes]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            send(process.stdin, tag, payload)
            reply = receive(process.stdout)
        except OSError:  # a broken pipe
            reply = None
        finally:
            timer.cancel()
        if reply is None:
            self._stop()
            if late.is_set():
                raise WorkerCrash(f"took over {timeout_s:g} s")
            if process.returncode == -OUT_OF_TIME:
                raise WorkerCrash(f"took over {cpu_limit_s(len(payload)):g} s of processor time")
            raise WorkerDeath("crashed")
        return reply

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.wait()


WORKER: Final = Worker()
atexit.register(WORKER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WORKER.forget)


def ask(tag: bytes, payload: bytes, name: str) -> bytes:
    """Ask the one worker of this process about the model ``name``.

    Raises:
        ModelError: the request was refused, or native code fails on it.
    """
    try:
        return WORKER.ask(tag, payload)
    except WorkerRefusal as refusal:
        raise ModelError(f"{quoted(name)} contradicts itself: {refusal}; export it again") from None
    except WorkerCrash as crash:
        raise ModelError(
            f"{quoted(name)} is malformed: ONNX's own shape inference {crash} on it; check how the file was made"
        ) from None
