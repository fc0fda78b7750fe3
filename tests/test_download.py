"""Fetching archives from a server on this machine: broken connections, wrong checksums, single cases."""

import hashlib
import http.server
import io
import json
import tarfile
import threading
from contextlib import contextmanager

import pytest
from remote_files import Server, md5, remote, zipped

from modalign.datasets import download, registry, unpack
from modalign.datasets.registry import Archive, RemoteFile, fetch
from modalign.errors import DataError

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.respond(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@contextmanager
def registered(monkeypatch, *files: RemoteFile, access: str = "open"):
    entry = Archive("toy", "1", "nobody", files, "CC0", access, "https://example.org", "Nobody 2020")
    monkeypatch.setattr(registry, "registry", lambda: {"toy": entry})
    yield entry


def test_a_cut_connection_is_continued_where_it_broke(server, tmp_path):
    server.files["a"] = BODY
    server.cut = 300_000
    path = download.download(remote(server.url("a"), checksum=md5(BODY)), tmp_path)
    assert path.read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, *(f"bytes={i * 300_000}-" for i in (1, 2, 3))]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_killed_download_is_continued_by_the_next_run(server, tmp_path):
    server.files["a"] = BODY
    (tmp_path / "a.bin.part").write_bytes(BODY[:1000])
    assert download.download(remote(server.url("a"), checksum=md5(BODY)), tmp_path).read_bytes() == BODY
    assert server.requests == [("a", "bytes=1000-")]
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")  # killed after the last byte
    assert download.download(remote(server.url("a"), checksum=md5(BODY)), tmp_path).read_bytes() == BODY
    assert server.requests[1:] == [("a", f"bytes={len(BODY)}-")]
    download.download(remote(server.url("a")), tmp_path)
    assert len(server.requests) == 2


def test_without_ranges_or_with_another_file_it_starts_over(server, tmp_path):
    server.files["a"] = BODY
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    server.ranges = False
    assert download.download(remote(server.url("a"), checksum=md5(BODY)), tmp_path).read_bytes() == BODY
    # The server's file changed between two runs: its ETag tells, and old and new bytes aren't mixed.
    server.ranges, server.etag = True, '"2"'
    (tmp_path / "b.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "b.bin.part.etag").write_text('"1"')
    assert download.download(remote(server.url("a"), name="b.bin"), tmp_path).read_bytes() == BODY
    # What is left of an earlier, longer file can't be continued.
    (tmp_path / "c.bin.part").write_bytes(BODY + b"more")
    assert download.download(remote(server.url("a"), name="c.bin"), tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_or_size_is_refused_and_removed(server, tmp_path):
    server.files["a"] = BODY
    with pytest.raises(
        DataError, match=rf"a.bin from .* has {md5(BODY).replace(':', ' ')}, and 0+ was published. It was"
    ):
        download.download(remote(server.url("a"), checksum="md5:" + "0" * 32), tmp_path)
    with pytest.raises(DataError, match="has 1048576 bytes, and 1048577 were published"):
        download.download(remote(server.url("a"), size=len(BODY) + 1), tmp_path)
    assert not list(tmp_path.iterdir())
    sha512 = "sha512:" + hashlib.sha512(BODY).hexdigest()
    assert download.download(remote(server.url("a"), checksum=sha512), tmp_path).is_file()


def test_the_publishers_record_is_asked_for_the_checksum(server, tmp_path, caplog):
    server.files["a"] = BODY
    server.files["record"] = json.dumps({"files": [{"key": "a.bin", "checksum": md5(BODY)}]}).encode()
    asks = remote(server.url("a"), checksum="record:" + server.url("record"))
    assert download.download(asks, tmp_path / "good").is_file()
    server.files["record"] = json.dumps({"files": [{"key": "a.bin", "checksum": md5(b"")}]}).encode()
    with pytest.raises(DataError, match=f"and {md5(b'')[4:]} was published"):
        download.download(asks, tmp_path / "bad")
    del server.files["record"]
    assert download.download(asks, tmp_path / "unknown").is_file()
    assert "states no checksum of a.bin: only its size is checked" in caplog.text


def test_passing_failures_are_tried_again_and_lasting_ones_reported(server, tmp_path, monkeypatch):
    server.files["a"] = BODY
    server.failing = 2
    assert download.download(remote(server.url("a")), tmp_path).is_file()
    with pytest.raises(DataError, match=r"b.bin can't be downloaded \(.*404.*\). Run the same command again later"):
        download.download(remote(server.url("gone"), name="b.bin"), tmp_path)
    assert len([path for path, _ in server.requests if path == "gone"]) == 1
    server.failing = 1000
    with pytest.raises(DataError, match=r"b.bin can't be downloaded \(.*503"):
        download.download(remote(server.url("a"), name="b.bin"), tmp_path)
    assert 1000 - server.failing == download.ATTEMPTS
    server.failing = 0
    # The second address is used if the first one fails.
    assert download.download(remote(server.url("gone"), server.url("a"), name="c.bin"), tmp_path).read_bytes() == BODY
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"d.bin needs 5.0 kB more in .*, and 1.0 kB are free"):
        download.download(remote(server.url("a"), name="d.bin", size=5000), tmp_path)


def test_a_large_download_is_logged_by_tenths(server, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(download, "_LOGGED_BYTES", 1000)
    monkeypatch.setattr(download, "_CHUNK_BYTES", 100_000)
    server.files["a"] = BODY
    download.download(remote(server.url("a"), size=len(BODY)), tmp_path)
    lines = [record.message for record in caplog.records]
    assert lines[0] == "downloading a.bin (1.0 MB)"
    assert lines[1:] == [f"a.bin: {n} % of 1.0 MB" for n in (*range(10, 100, 10), 100)]


def test_fetch_unpacks_what_the_data_set_needs_and_does_it_once(server, tmp_path, monkeypatch):
    server.files["z"] = zipped(Task1__pelvis__1PA001__mr="MR", Task1__brain__1BA001__mr="not this")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        entry = tarfile.TarInfo("IXI002.txt")
        entry.size = 2
        file.addfile(entry, io.BytesIO(b"T1"))
    server.files["t"] = tar.getvalue()
    files = (
        remote(server.url("z"), name="z.zip", pattern="*Task1/pelvis/*"),
        remote(server.url("t"), name="t.tar", pattern="*"),
        remote(server.url("z"), name="plain.mha"),
    )
    with registered(monkeypatch, *files):
        fetch("toy", tmp_path, accept_licence=True)
        there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
        assert there == [
            ".downloads/t.tar", ".downloads/z.zip", "IXI002.txt", "Task1/pelvis/1PA001/mr",
            "modalign-download.json", "plain.mha",
        ]  # fmt: skip
        assert (tmp_path / "Task1/pelvis/1PA001/mr").read_text() == "MR"
        assert not download.unfinished(tmp_path)
        asked = len(server.requests)
        fetch("toy", tmp_path, accept_licence=True)
        assert len(server.requests) == asked
        (tmp_path / "modalign-download.json").unlink()
        assert download.unfinished(tmp_path)


def test_single_cases_are_read_out_of_a_zip_on_the_server(server, tmp_path, monkeypatch):
    import numpy as np

    noise = np.random.default_rng(0).bytes(400_000)  # incompressible, so that ranges matter
    members = {f"Task1__pelvis__1P{c}00{i}__mr": noise for c in "AC" for i in range(4)}
    server.files["z"] = zipped(**members, Task1__pelvis__overview__x="no case", Task1__brain__1BA001__mr="no")
    monkeypatch.setattr(unpack, "_READ_AHEAD_BYTES", 1 << 14)
    sent = []
    original = download.open_range
    monkeypatch.setattr(download, "open_range", lambda *a: sent.append(original(*a)) or sent[-1])
    with registered(monkeypatch, remote(server.url("z"), name="z.zip", pattern="*Task1/pelvis/*")):
        fetch("toy", tmp_path, accept_licence=True, max_cases=2)
        found = sorted(p.parent.name for p in tmp_path.rglob("mr"))
        assert found == ["1PA000", "1PC000"]  # one of each centre
        assert (tmp_path / "Task1/pelvis/1PC000/mr").read_bytes() == noise
        assert sum(len(data) for data, _ in sent) < 0.4 * len(server.files["z"])
        server.ranges = False
        with pytest.raises(DataError, match="can't be read in parts: download it as a whole, without `max_cases`"):
            fetch("toy", tmp_path / "other", accept_licence=True, max_cases=2)
    with (
        registered(monkeypatch, remote(server.url("t"), name="t.tar", pattern="*")),
        pytest.raises(DataError, match=r"comes as t.tar, of which no single cases can be fetched: fetch it all"),
    ):
        fetch("toy", tmp_path / "third", accept_licence=True, max_cases=2)
    assert not download.unfinished(tmp_path / "third")
