"""The registry of archives, and fetching them: against a server on this machine."""

import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from modalign.datasets import download, registry, unpack
from modalign.datasets.registry import Archive, RemoteFile, archive, describe_missing, fetch
from modalign.errors import ConfigError, DataError

BODY = bytes(range(256)) * 4096  # 1 MiB


class Server:
    """Serves `files` by path; `cut` bytes a connection at most; with or without ranges; records what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.etag = '"1"'
        self.failing = 0
        self.requests: list[tuple[str, str | None]] = []
        self.address = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path.lstrip("/"), handler.headers.get("Range")
        self.requests.append((path, wanted))
        if self.failing:
            self.failing -= 1
            handler.send_error(503)
            return
        if path not in self.files:
            handler.send_error(404)
            return
        body = self.files[path]
        start, stop = 0, len(body)
        if_range = handler.headers.get("If-Range")
        partial = bool(wanted) and self.ranges and if_range in (None, self.etag)
        if partial:
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
            start = int(first) if first else len(body) - int(last)
            stop = int(last) + 1 if first and last else len(body)
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
        handler.send_response(206 if partial else 200)
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
        handler.send_header("Content-Length", str(stop - start))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        content = body[start:stop]
        handler.wfile.write(content if self.cut is None else content[: self.cut])


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


def md5(data: bytes) -> str:
    return "md5:" + hashlib.md5(data).hexdigest()


def remote(*urls: str, checksum: str = "", name: str = "a.bin", size: int | None = None, pattern="") -> RemoteFile:
    return RemoteFile(name, urls, size, checksum, pattern)


def zipped(**members: bytes | str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


@contextmanager
def registered(monkeypatch, *files: RemoteFile, access: str = "open"):
    entry = Archive("toy", "1", "nobody", files, "CC0", access, "https://example.org", "Nobody 2020")
    monkeypatch.setattr(registry, "registry", lambda: {"toy": entry})
    yield entry


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_is_complete_and_its_checksums_are_well_formed():
    lengths = {"md5": 32, "sha512": 128}
    keys = set(registry.registry())
    assert {
        "synthrad2023-task1-pelvis",
        "synthrad2023-task2-brain",
        "ixi",
        "brats2019",
        "brats2020",
        "brats2021",
    } < keys
    assert {"brats2023", "learn2reg-abdomen-mr-ct", "cermep", "hanseg", "goldatlas"} < keys
    for entry in registry.registry().values():
        assert entry.licence
        assert entry.citation
        assert entry.home.startswith("http")
        assert entry.access in ("open", "registration", "request", "restricted")
        for file in entry.files:
            assert bool(file.urls) == (entry.access == "open")
            assert all(url.startswith("https://") for url in file.urls)
            algorithm, _, value = file.checksum.partition(":")
            if algorithm in lengths:
                assert re.fullmatch(f"[0-9a-f]{{{lengths[algorithm]}}}", value)
            else:
                assert algorithm in ("", "record")
            assert not file.unpack or entry.access != "open" or unpack.is_archive(file.name)
    assert [file.name for file in archive("ixi").files] == ["IXI-T1.tar", "IXI-T2.tar", "IXI-PD.tar"]
    assert archive("synthrad2023-task1-pelvis").files[0].size_bytes == 14471900926


def test_unknown_archive_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no archive 'ixi2'; the archives are: .*ixi, brats2019"):
        archive("ixi2")


def test_what_is_missing_is_described_with_everything_one_needs(tmp_path):
    text = describe_missing("cermep", tmp_path)
    for part in (
        "on request: https://doi.org/10.1186/s13550-021-00830-6",
        "Merida",
        f"archives: {{cermep: {{source: {tmp_path}}}}}",
    ):
        assert part in text
    assert "archives: {cermep: {source: phantom}}" in text
    assert "phantom" not in describe_missing("brats2021", tmp_path)
    assert describe_missing("mine", tmp_path).endswith("in config.yaml: archives: {mine: {source: ...}}")
    assert f"modalign fetch ixi --out {tmp_path} --accept-licence" in describe_missing("ixi", tmp_path)
    assert "IXI-T1.tar, 4.8 GB from https://biomedic" in describe_missing("ixi", tmp_path)
    with pytest.raises(DataError, match="It is given after registration: https://www.med.upenn.edu/cbica/brats2019"):
        fetch("brats2019", tmp_path, accept_licence=True)
    with pytest.raises(DataError, match="hanseg is published under: CC BY-NC-ND 4.0 .*`accept_licence: true`"):
        fetch("hanseg", tmp_path, accept_licence=False)
    assert not list(tmp_path.iterdir())


# --- transfer --------------------------------------------------------------------------------------------------------


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


# --- archives --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_members_that_point_outside_are_refused(tmp_path, member):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(member), "evil")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    for name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="points outside the folder it is unpacked to"):
            unpack.unpack(tmp_path / name, tmp_path / "in")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "a.zip", "in"]


def test_links_damage_and_other_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="member link of the archive is a link or a device"):
        unpack.unpack(tmp_path / "link.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        file.writestr(entry, "/etc")
    with pytest.raises(DataError, match="member link of the archive is a link"):
        unpack.unpack(tmp_path / "link.zip", tmp_path / "out")
    content = bytearray(zipped(a=b"x" * 5000))
    content[40] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"bad.zip is damaged \(.*\): remove it and fetch it again"):
        unpack.unpack(tmp_path / "bad.zip", tmp_path / "out")
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(DataError, match="page.zip is damaged"):
        unpack.unpack(tmp_path / "page.zip", tmp_path / "out")
    (tmp_path / "good.zip").write_bytes(zipped(a="x"))
    with pytest.raises(DataError, match="has no member like Task1/"):
        unpack.unpack(tmp_path / "good.zip", tmp_path / "out", "Task1/*")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/d").symlink_to(tmp_path)
    (tmp_path / "through.zip").write_bytes(zipped(d__x="x"))
    with pytest.raises(DataError, match="leads outside .* through a link: remove the link"):
        unpack.unpack(tmp_path / "through.zip", tmp_path / "out")


def test_the_registry_loads_without_heavy_libraries():
    import subprocess
    import sys

    code = (
        "import sys, modalign.datasets, modalign.datasets.registry as r; r.registry();"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'SimpleITK', 'nibabel', 'numpy') if m in sys.modules])"
    )
    source = str(Path(registry.__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
