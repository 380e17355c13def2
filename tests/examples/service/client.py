"""A service's process, and clients that ask it: well-behaved ones by http.client, others by a bare socket."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> str:
        assert self.headers["Content-Type"] == "application/json"
        assert set(self.json()["error"]) == {"code", "message"}
        return self.json()["error"]["code"]

    def array(self) -> NDArray[np.float32]:
        shape = [int(size) for size in self.headers["Saliport-Shape"].split(",")]
        return np.frombuffer(self.body, self.headers["Saliport-Dtype"]).reshape(shape)

    def picture(self) -> NDArray[np.uint8]:
        assert self.headers["Content-Type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(self.body)))


class Service:
    """A running ``saliport_service``; leaving the context ends it by SIGTERM and asks for exit status 0."""

    def __init__(self, binary: Path, artifact: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [binary, "--artifact", artifact, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + self.process.communicate()[1]
        self.port = int(line.rsplit(":", 1)[1])
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.end()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, output + errors
        assert errors == ""
        assert output.endswith("ended\n")

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def ask(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, target, body, headers or {})
            return reply_of(connection.getresponse())
        finally:
            connection.close()

    def explain(self, image: bytes, headers: Mapping[str, str] | None = None, **query: object) -> Reply:
        """Send an image as a raw body."""
        content_type = "image/png" if image[:4] == b"\x89PNG" else "image/jpeg"
        target = "/v1/explain" + ("?" + urlencode(query) if query else "")
        return self.ask("POST", target, image, {"Content-Type": content_type, **(headers or {})})

    def explain_form(self, image: bytes, **fields: object) -> Reply:
        """Send an image as a form."""
        body, content_type = form({"image": image, **{name: str(value).encode() for name, value in fields.items()}})
        return self.ask("POST", "/v1/explain", body, {"Content-Type": content_type})

    def metrics(self) -> dict[str, float]:
        text = self.ask("GET", "/metrics").body.decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def status(self, name: str) -> int:
        """Return a figure of /proc/PID/status: KiB of memory, or a number."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1])

    def forget_peak(self) -> None:
        """Let VmHWM, the peak of resident memory, begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def reply_of(answer: http.client.HTTPResponse) -> Reply:
    return Reply(answer.status, dict(answer.getheaders()), answer.read())


def read_reply(connection: socket.socket) -> Reply:
    """Read one answer from a socket that stays open."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return reply_of(answer)


def form(parts: Mapping[str, bytes], boundary: str = "----f0rm") -> tuple[bytes, str]:
    """Return a multipart body and its content type."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts.items()
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of PNG's interlacing passes."""


def png(pixels: NDArray[Any], *, interlaced: bool = False, size: tuple[int, int] | None = None) -> bytes:
    """Write a PNG by hand, for what Pillow does not write: 16 bits a channel, interlacing, a size that is a lie.

    Args:
        pixels: uint8 or uint16 ``[H, W]`` or ``[H, W, 3]``.
        interlaced: In seven passes.
        size: Width and height that the header says, where they are not the pixels'.
    """
    wide = pixels.astype(pixels.dtype.newbyteorder(">"))
    passes = [wide[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [wide]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    width, height = size or (pixels.shape[1], pixels.shape[0])
    color = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
