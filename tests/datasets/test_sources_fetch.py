"""Downloading public tables: from a local server that cuts connections, lies about files and goes away."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardsight.cli import main
from hardsight.datasets.sources import RemoteFile, Source
from hardsight.datasets.sources._base import plain_folder
from hardsight.datasets.sources._pickles import read_pickle, read_torch
from hardsight.datasets.sources.fetch import fetch
from hardsight.datasets.sources.wa_hls4ml import WaHls4ml
from hardsight.errors import BackendError, DataError, InputError, StorageError

CONTENT = b"index,value\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(30_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves files, with Range; ``cut`` ends each answer after that many bytes, as often as ``cuts`` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut = 0
        self.cuts = 0
        self.ranges = True
        self.broken = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.broken:
            server.broken -= 1
            return self.send_error(503)
        body = server.content.get(self.path)
        if body is None:
            return self.send_error(404)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if begin >= len(body):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        end = len(body)
        if server.cuts:
            server.cuts -= 1
            end = begin + server.cut
        self.wfile.write(body[begin:end])
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDSIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HARDSIGHT_DATA", raising=False)
    return tmp_path / "home"


def toy(url: str, sha256: str | None = SHA256) -> Source:
    class Toy(Source):
        name = "toy"
        folder = "toy"
        files = (RemoteFile("table.csv", f"{url}/table.csv", sha256),)
        plain = ("plain.csv",)
        licence = "CC0-1.0"
        citation = "nobody"
        rows = 30_000

        def convert(self, raw: Path, out: Path) -> None:
            lines = (raw / "table.csv").read_text()
            if not lines.startswith("index"):
                raise DataError("no table")
            (out / "plain.csv").write_text(lines)

        def table(self, folder: Path) -> Any:
            return (folder / "plain.csv").read_bytes()

    return Toy()


def test_a_table_is_fetched_once_and_then_asks_nobody(server: Server) -> None:
    server.content["/table.csv"] = CONTENT
    seen: list[tuple[str, int, int]] = []
    first = fetch(toy(server.url), progress=lambda *report: seen.append(report))
    assert (first.folder / "plain.csv").read_bytes() == CONTENT
    assert first.originals[0].verified
    assert seen[-1] == ("table.csv", len(CONTENT), len(CONTENT))
    again = fetch(toy(server.url))
    assert again.folder == first.folder
    assert len(server.requests) == 1
    assert toy(server.url).find() == first.folder


def test_a_cut_connection_is_resumed_where_it_broke(server: Server) -> None:
    server.content["/table.csv"] = CONTENT
    server.cut, server.cuts = 1000, 2
    fetched = fetch(toy(server.url), pause_s=0)
    assert (fetched.folder / "plain.csv").read_bytes() == CONTENT
    assert server.requests == [
        ("/table.csv", None),
        ("/table.csv", "bytes=1000-"),
        ("/table.csv", "bytes=2000-"),
    ]


def test_a_later_call_resumes_what_an_earlier_one_left(server: Server, home: Path) -> None:
    server.content["/table.csv"] = CONTENT
    server.cut, server.cuts = 100, 1000
    with pytest.raises(BackendError, match=r"ended after 500 of \d+ bytes"):
        fetch(toy(server.url), pause_s=0)
    assert not plain_folder("toy").exists()
    server.cuts = 0
    fetch(toy(server.url), pause_s=0)
    assert server.requests[-1] == ("/table.csv", "bytes=500-")


def test_a_server_without_ranges_sends_everything_again(server: Server) -> None:
    server.content["/table.csv"] = CONTENT
    server.cut, server.cuts, server.ranges = 1000, 1, False
    assert (fetch(toy(server.url), pause_s=0).folder / "plain.csv").read_bytes() == CONTENT


def test_a_begun_file_longer_than_the_original_is_begun_anew(server: Server, home: Path) -> None:
    server.content["/table.csv"] = CONTENT
    part = plain_folder("toy").with_name("original") / "table.csv.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert (fetch(toy(server.url), pause_s=0).folder / "plain.csv").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server) -> None:
    server.broken = 2
    with pytest.raises(BackendError, match="answers 404"):
        fetch(toy(server.url), pause_s=0)
    assert len(server.requests) == 3


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server: Server, home: Path) -> None:
    server.content["/table.csv"] = CONTENT.replace(b"9", b"8")
    with pytest.raises(DataError, match=f"not {SHA256}"):
        fetch(toy(server.url), pause_s=0)
    assert [path for path in home.rglob("*") if path.is_file()] == []
    server.content["/table.csv"] = CONTENT
    assert fetch(toy(server.url)).originals[0].sha256 == SHA256


def test_a_file_without_a_published_checksum_says_so_and_may_not_change(server: Server, home: Path) -> None:
    server.content["/table.csv"] = CONTENT
    first = fetch(toy(server.url, sha256=None))
    (original,) = first.originals
    assert not original.verified
    record = original.path.with_name("table.csv.sha256")
    assert record.read_text() == f"{SHA256}  table.csv\n"
    (first.folder / "plain.csv").unlink()
    original.path.unlink()
    server.content["/table.csv"] = CONTENT + b"1,2\n"
    with pytest.raises(DataError, match="was downloaded the first time"):
        fetch(toy(server.url, sha256=None))


def test_what_cannot_be_converted_is_fetched_again_if_it_was_taken_on_trust(server: Server) -> None:
    server.content["/table.csv"] = b"<html>come back later</html>"
    with pytest.raises(DataError, match="no table"):
        fetch(toy(server.url, sha256=None))
    server.content["/table.csv"] = CONTENT
    assert (fetch(toy(server.url, sha256=None)).folder / "plain.csv").read_bytes() == CONTENT


def test_a_mirror_may_be_a_folder_or_a_url(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(DataError, match="the mirror has no file"):
        fetch(toy("http://127.0.0.1:1"), mirror=str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "table.csv").write_bytes(CONTENT)
    assert fetch(toy("http://127.0.0.1:1"), mirror=str(tmp_path / "mirror")).originals[0].verified
    (plain_folder("toy") / "plain.csv").unlink()
    server.content["/deep/table.csv"] = CONTENT
    fetch(toy("http://127.0.0.1:1"), mirror=f"{server.url}/deep/")
    with pytest.raises(InputError, match="no place to fetch from"):
        fetch(toy("http://127.0.0.1:1"), mirror="ftp://example.org")


def test_no_network_is_said_in_a_sentence(server: Server) -> None:
    gone = server.url.replace(str(server.server_port), "1")
    with pytest.raises(BackendError, match="Check the network and run the same command again"):
        fetch(toy(gone), pause_s=0)


def test_a_full_disk_is_said_in_a_sentence(server: Server) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full to stand for a full disk")
    server.content["/table.csv"] = CONTENT
    part = plain_folder("toy").with_name("original") / "table.csv.part"
    part.parent.mkdir(parents=True)
    part.symlink_to(full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        fetch(toy(server.url), pause_s=0)


def test_the_command_fetches_says_what_is_unverified_and_whom_to_cite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(WaHls4ml, "rows", 1)
    settings = "d_in,d_out,prec,rf,strategy,hls_synth_success,WorstLatency_hls,IntervalMax_hls"
    text = (
        f"{settings},LUT_hls,FF_hls,DSP_hls,BRAM_18K_hls,URAM_hls\n4,3,8,2,resource,TRUE,5,2,100,90,6,1,0\n"
    )
    (tmp_path / "results_format_test.csv").write_text(text)
    assert main(["dataset", "fetch", "wa-hls4ml", "--from", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "results_format_test.csv: not verified" in out
    assert hashlib.sha256(text.encode()).hexdigest() in out
    assert "wa-hls4ml: 1 rows; labels of xcvu13p/hls4ml/latency, xcvu13p/hls4ml/resource" in out
    assert "Licence: Apache-2.0. Cite: B. Hawks" in out


def test_the_commands_know_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "fetch", "wa-hls4m"]) == InputError.exit_code
    assert "Did you mean 'wa-hls4ml'?" in capsys.readouterr().err
    assert main(["dataset", "sources"]) == 0
    assert "wa-hls4ml" in capsys.readouterr().out


class _Trap:
    """A pickle that runs code when it is loaded, if anything lets it."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


@pytest.mark.parametrize("read", [read_pickle, read_torch])
def test_a_malicious_pickle_is_refused_and_not_run(read: Any, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "data.pkl"
    if read is read_torch:
        torch = pytest.importorskip("torch", reason="a core dependency that a slim test environment may lack")
        torch.save({"weights": _Trap(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"numbers": [1, 2, _Trap(marker)]}))
    with pytest.raises(DataError, match="not plain"):
        read(path)
    assert not marker.exists()
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="not plain"):
        read(path)


@pytest.mark.parametrize(
    "line",
    ["builtins\neval\n", "builtins\ngetattr\n", "os\nsystem\n", "numpy\nload\n", "numpy.testing\nrun\n"],
)
def test_a_pickle_may_name_nothing_but_containers_and_arrays(line: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"c" + line.encode() + b".")
    with pytest.raises(DataError, match="neither a container nor an array"):
        read_pickle(tmp_path / "p")


def test_plain_data_comes_out_of_pickles(tmp_path: Path) -> None:
    data = {
        "a": [1, 2.5, "x", None, True],
        "b": (b"y", {3}),
        "c": np.arange(6.0).reshape(2, 3),
        "d": np.float32(2),
    }
    for protocol in (0, 2, 5):
        (tmp_path / "p").write_bytes(pickle.dumps(data, protocol=protocol))
        read = read_pickle(tmp_path / "p")
        assert np.array_equal(read.pop("c"), data["c"])  # type: ignore[arg-type]
        assert read == {key: value for key, value in data.items() if key != "c"}
