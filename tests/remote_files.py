"""A server of files, and what it serves, for the tests of downloads."""

import hashlib
import http.server
import io
import re
import zipfile

from modalign.datasets.registry import RemoteFile


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
