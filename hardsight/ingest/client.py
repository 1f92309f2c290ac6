"""Talk to the worker process: start it when first needed, restart it after a crash, end it with this process."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final, cast

from hardsight.ingest.worker import OK, receive, send

TIMEOUT_S: Final = 10.0
_START_TIMEOUT_S: Final = 60.0


class WorkerCrash(Exception):
    """The worker died, or gave no answer in time."""


class WorkerRefusal(Exception):
    """The worker says what is wrong with the model."""


class Worker:
    """One isolated process; safe to use from several threads and after a fork.

    Args:
        timeout_s: how long one request may take.
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
        with self._lock:
            process = self._running()
            late = threading.Event()

            def stop() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self.timeout_s, stop)
            timer.daemon = True
            timer.start()
            try:
                send(cast("IO[bytes]", process.stdin), tag, payload)  # type: ignore[arg-type]
                reply = receive(cast("IO[bytes]", process.stdout))  # type: ignore[arg-type]
            except (BrokenPipeError, OSError):
                reply = None
            finally:
                timer.cancel()
            if reply is None:
                self._stop()
                raise WorkerCrash(f"took over {self.timeout_s:g} s" if late.is_set() else "crashed")
        if reply[0] != OK:
            raise WorkerRefusal(reply[1].decode("utf-8", "replace"))
        return reply[1]

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """Process id while one runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork the pipes belong to the parent
            self._process = None
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
            self._owner = os.getpid()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([*(entry for entry in sys.path if entry), root])
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "hardsight.ingest.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the parent
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        process.wait()


WORKER: Final = Worker()
atexit.register(WORKER.close)
os.register_at_fork(after_in_child=lambda: WORKER.__init__(WORKER.timeout_s))  # type: ignore[misc]
