"""A PostgreSQL server for a while, of this machine's own Debian packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hardsight.errors import BackendError

_USER = "nobody"  # the server refuses to run as root


class Server:
    """A server on a free port of this machine, which may be stopped and started again.

    Args:
        folder: of its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-U", "optuna", "-A", "trust", "--no-sync")

    @property
    def url(self) -> str:
        """For Optuna and SQLAlchemy."""
        return f"postgresql+psycopg://optuna@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        settings = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-o", settings, "start")

    def stop(self) -> None:
        """At once, as a crash would: connections break in mid-sentence."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [_program(program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", _USER, "--", *command]
        done = subprocess.run(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=(self._folder / "errors").open("w"),
        )
        if done.returncode:
            why = (self._folder / "errors").read_text().strip() or f"exit code {done.returncode}"
            raise BackendError(f"PostgreSQL's {program} failed: {why}")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A new server with an empty database, gone afterwards.

    Raises:
        BackendError: PostgreSQL is not installed, or does not start.
    """
    # not in a folder that only root may enter
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(BackendError):  # stopped already
                server.stop()


def _program(name: str) -> str:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(versions)), os.environ["PATH"]]))
    if found is None:
        raise BackendError(
            f"PostgreSQL's {name} is not installed; on Debian and Ubuntu: apt install postgresql"
        )
    return found
