"""How the service answers what is wrong, large, slow or too much; everything is tried on the sanitized build, too."""

from __future__ import annotations

import concurrent.futures
import io
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.examples.service.client import Service, encoded, form, png, read_reply

PNG = {"Content-Type": "image/png"}


def form_of(body: bytes, content_type: str = "multipart/form-data; boundary=b") -> tuple[bytes, dict[str, str]]:
    return body, {"Content-Type": content_type}


REFUSED = {
    "unknown path": ("GET", "/v1/nothing", None, {}, 404, "not_found"),
    "path with a slash too many": ("POST", "/v1/explain/", b"x", PNG, 404, "not_found"),
    "path out of the folder": ("GET", "/../../etc/passwd", None, {}, 404, "not_found"),
    "wrong method": ("GET", "/v1/explain", None, {}, 405, "method_not_allowed"),
    "another wrong method": ("DELETE", "/v1/explain", None, {}, 405, "method_not_allowed"),
    "wrong method of health": ("POST", "/healthz", b"x", {}, 405, "method_not_allowed"),
    "wrong type": ("POST", "/v1/explain", b"GIF89a", {"Content-Type": "image/gif"}, 415, "unsupported_media_type"),
    "no type": ("POST", "/v1/explain", b"x", {}, 415, "unsupported_media_type"),
    "curl's own type": (
        "POST",
        "/v1/explain",
        b"x" * 10_000,
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "unsupported_media_type",
    ),
    "not the type that it says": ("POST", "/v1/explain", b"GIF89a", PNG, 415, "unsupported_image"),
    "empty image": ("POST", "/v1/explain", b"", PNG, 415, "unsupported_image"),
    "compressed body": ("POST", "/v1/explain", b"x", {**PNG, "Content-Encoding": "gzip"}, 415, "unsupported_encoding"),
    "target too large": ("POST", "/v1/explain?target=10", b"x", PNG, 400, "bad_target"),
    "target too small": ("POST", "/v1/explain?target=-2", b"x", PNG, 400, "bad_target"),
    "target too long": ("POST", "/v1/explain?target=18446744073709551616", b"x", PNG, 400, "bad_target"),
    "target of no class": ("POST", "/v1/explain?target=Cat", b"x", PNG, 400, "bad_target"),
    "target with a fraction": ("POST", "/v1/explain?target=3.0", b"x", PNG, 400, "bad_target"),
    "empty target": ("POST", "/v1/explain?target=", b"x", PNG, 400, "bad_target"),
    "target that is no UTF-8": ("POST", "/v1/explain?target=%ff%fe", b"x", PNG, 400, "bad_target"),
    "negative top": ("POST", "/v1/explain?top=-1", b"x", PNG, 400, "bad_top"),
    "unknown format": ("POST", "/v1/explain?format=gif", b"x", PNG, 400, "bad_format"),
    "unknown map": ("POST", "/v1/explain?include=raw,json", b"x", PNG, 400, "bad_include"),
    "maps in a map": ("POST", "/v1/explain?include=raw&format=raw", b"x", PNG, 400, "bad_include"),
    "unknown field": ("POST", "/v1/explain?tarjet=3", b"x", PNG, 400, "unknown_field"),
    "field given twice": ("POST", "/v1/explain?top=3&top=4", b"x", PNG, 400, "repeated_field"),
    "form without image": ("POST", "/v1/explain", *form({"top": b"3"}), 400, "missing_image"),
    "form without boundary": ("POST", "/v1/explain", *form_of(b"x", "multipart/form-data"), 400, "bad_multipart"),
    "form that is none": ("POST", "/v1/explain", *form_of(b"x" * 9999), 400, "bad_multipart"),
    "form cut short": ("POST", "/v1/explain", *form_of(form({"image": b"x" * 99}, "b")[0][:-20]), 400, "bad_multipart"),
    "form without names": ("POST", "/v1/explain", *form_of(b"--b\r\n\r\n\r\n--b--\r\n"), 400, "bad_multipart"),
    "form of many parts": ("POST", "/v1/explain", *form({f"p{i}": b"" for i in range(99)}), 400, "bad_multipart"),
    "form with a long head": ("POST", "/v1/explain", *form({"a" * 500_000: b""}), 400, "bad_multipart"),
    "form with two images": (
        "POST",
        "/v1/explain",
        *form_of(2 * b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n' + b"--b--\r\n"),
        400,
        "repeated_field",
    ),
    "body of a GET": ("GET", "/healthz", b"x", {}, 400, "unexpected_body"),
    "length that is no number": ("POST", "/v1/explain", None, {**PNG, "Content-Length": "-1"}, 400, "bad_length"),
    "length beyond all": ("POST", "/v1/explain", None, {**PNG, "Content-Length": "9" * 40}, 413, "body_too_large"),
    "unknown transfer": ("POST", "/v1/explain", None, {**PNG, "Transfer-Encoding": "gzip"}, 400, "bad_length"),
    "long head": ("GET", "/healthz", None, {"X": "x" * 9000}, 431, "head_too_long"),
    "long path": ("GET", "/" + "x" * 9000, None, {}, 431, "head_too_long"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_in_words(what: str, attacked: Service) -> None:
    method, target, body, headers, status, code = REFUSED[what]
    headers = {"Content-Type": headers} if isinstance(headers, str) else headers
    answer = attacked.ask(method, target, body, headers)
    assert (answer.status, answer.error()) == (status, code), answer.body
    assert len(answer.json()["error"]["message"]) < 400


def test_405_names_what_is_allowed(attacked: Service) -> None:
    assert attacked.ask("GET", "/v1/explain").headers["Allow"] == "POST"
    assert attacked.ask("DELETE", "/metrics").headers["Allow"] == "GET, HEAD"


BAD = {
    "both lengths": b"POST /v1/explain HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/explain HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "bytes": bytes(range(256)) * 16,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "no line of a request": b"HELLO\r\n\r\n",
    "unknown method": b"BREW /healthz HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "NUL": b"GET /healthz\0 HTTP/1.1\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\r\nA: b\nContent-Length: 3\r\n\r\nabc",
    "a head that ends too early": b"GET /healthz HTTP/1.1\r\nA: b",
}
# Headers that a proxy may read as the length of a body, and cpp-httplib would pass over: the body is another request.
BAD |= {
    f"{how} before a body": b"GET /healthz HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n%b" % (header, body)
    for body, headers in {
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n": {
            "a blank": b"Content-Length : 35",
            "a tab": b"Content-Length\t: 35",
            "an indented header": b" Content-Length: 35",
            "a folded length": b"Content-Length:\r\n 35",
            "no colon": b"Content-Length 35",
            "no name": b": 35",
            "a name that is no token": b"Content-Length(): 35",
            "an empty length": b"Content-Length: ",
            "an encoded length": b"Content-Length: %33%35",
        },
        b"23\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n": {
            "a blank, chunked,": b"Transfer-Encoding : chunked",
            "a folded encoding": b"Transfer-Encoding:\r\n chunked",
            "an empty encoding": b"Transfer-Encoding:\t",
            "an encoded encoding": b"Transfer-Encoding: %63hunked",
        },
    }.items()
    for how, header in headers.items()
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_http_is_refused_and_cut_off(what: str, attacked: Service) -> None:
    with attacked.connect() as connection:
        connection.sendall(BAD[what])
        connection.shutdown(socket.SHUT_WR)
        answer = read_reply(connection)
        assert answer.status == 400
        assert answer.error() in ("bad_request", "bad_length")
        assert answer.headers["Connection"] == "close"
        assert connection.recv(1) == b""


def test_a_post_without_length_is_refused(attacked: Service) -> None:
    with attacked.connect() as connection:
        connection.sendall(b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\n\r\n")
        answer = read_reply(connection)
    assert (answer.status, answer.error()) == (411, "length_required")


def test_ranges_are_ignored(attacked: Service, cat_png: bytes) -> None:
    """A long Range header is what std::regex recurses on."""
    ranges = "bytes=" + ",".join(["0-0"] * 1500)
    assert attacked.ask("GET", "/healthz", None, {"Range": ranges}).status == 200
    whole = attacked.explain(cat_png, format="raw")
    assert attacked.explain(cat_png, {"rAnGe": "bytes=0-9"}, format="raw") == whole


def big_png(side: int) -> bytes:
    """An image that is small as a file."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def test_a_bomb_takes_no_memory(service: Service, cat_jpeg: bytes) -> None:
    bombs = {
        "10,000 x 10,000": big_png(10_000),
        "a lie about the size": png(np.zeros((4, 4), np.uint8), size=(2**31 - 1, 2**31 - 1)),
        "one row": png(np.zeros((4, 4), np.uint8), size=(2**24, 1)),
        "no pixels": png(np.zeros((4, 4), np.uint8), size=(0, 4)),
        "JPEG": cat_jpeg.replace(b"\x08\x01\x2c\x01\xc3\x03", b"\x08\xff\xff\xff\xff\x03"),  # its frame's header
    }
    assert bombs["JPEG"] != cat_jpeg
    service.explain(cat_jpeg)
    before, _ = service.status("VmRSS"), service.forget_peak()
    for what, bomb in bombs.items():
        answer = service.explain(bomb)
        assert answer.status == 422, what
        assert answer.error() in ("image_too_large", "bad_image"), what
    assert (
        service.explain(bombs["10,000 x 10,000"]).json()["error"]["message"].startswith("the image is 10000 x 10000;")
    )
    assert service.status("VmHWM") - before < 4 * 1024  # the pixels alone would be 293 MiB


@pytest.mark.parametrize("what", ["turned", "grey"])
def test_an_image_takes_no_more_than_its_pixels(what: str, service: Service, heavy: bytes, cat: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = heavy if what == "grey" else encoded(cat.resize((4096, 4096)), "JPEG", exif=exif)
    assert service.explain(file).status == 200
    before, _ = service.status("VmRSS"), service.forget_peak()
    assert service.explain(file).status == 200
    assert service.status("VmHWM") - before < (3.2 if what == "turned" else 1.2) * 16 * 1024


def test_a_body_of_100_mb_takes_no_memory(service: Service) -> None:
    before, _ = service.status("VmRSS"), service.forget_peak()
    begun = time.monotonic()
    answer = service.ask("POST", "/v1/explain", bytes(100_000_000), PNG)
    assert (answer.status, answer.error()) == (413, "body_too_large")
    with service.connect() as connection:  # the same in chunks, whose length nobody announces
        connection.sendall(
            b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(100):
            connection.sendall(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
        answer = read_reply(connection)
    assert (answer.status, answer.error()) == (413, "body_too_large")
    assert service.status("VmHWM") - before < 14 * 1024  # --max-body is 10 MiB
    assert time.monotonic() - begun < 10


def test_expect_100_continue(attacked: Service, cat_png: bytes) -> None:
    head = "POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: "
    with attacked.connect() as connection:
        connection.sendall(f"{head}{len(cat_png)}\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(cat_png)
        assert read_reply(connection).status == 200
    with attacked.connect() as connection:
        connection.sendall(f"{head}100000000\r\n\r\n".encode())
        assert read_reply(connection).error() == "body_too_large"


def test_chunks_are_a_body_like_any_other(attacked: Service, cat_png: bytes) -> None:
    pieces = (cat_png[i : i + 10_007] for i in range(0, len(cat_png), 10_007))
    answer = attacked.ask("POST", "/v1/explain", pieces, PNG)  # type: ignore[arg-type]
    assert answer.body == attacked.explain(cat_png).body


@pytest.mark.parametrize("end", [b"", b"3\r\nab", b"xyz\r\n", b"0\r\nChecksum: 1\r\n\r\n"])
def test_chunks_that_are_not_read_are_refused(end: bytes, attacked: Service) -> None:
    head = b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    with attacked.connect() as connection:
        connection.sendall(head + b"3\r\nabc\r\n" + end)
        connection.shutdown(socket.SHUT_WR)
        answer = read_reply(connection)
    assert (answer.status, answer.error()) == (400, "incomplete_body")
    message = "the chunks end too early, are malformed, or have trailers, which are not read"
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_damaged_images_are_refused(format: str, attacked: Service, cat: Image.Image) -> None:
    """Cut short anywhere: refused. With bytes changed: refused, or explained as the other image that it now is."""
    file = encoded(cat.resize((90, 60)), format)
    rng = np.random.default_rng(0)
    for end in {*range(8, 60), *rng.integers(60, len(file) - 1, 60), len(file) - 1, len(file) - 2}:
        answer = attacked.explain(file[:end])
        assert (answer.status, answer.error()) == (422, "bad_image"), end
    seen = set()
    for _ in range(200):
        damaged = bytearray(file)
        for place in rng.integers(8, len(file), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        seen.add(attacked.explain(bytes(damaged)).status)
    assert 422 in seen
    assert seen <= {200, 415, 422}


def test_exif_may_say_anything(attacked: Service, cat: Image.Image) -> None:
    block = bytearray(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    small = cat.resize((20, 10))
    turned = attacked.explain(encoded(small, "JPEG", exif=bytes(block))).json()["image"]
    assert (turned["width"], turned["height"]) == (10, 20)
    rng = np.random.default_rng(1)
    for _ in range(100):
        other = block.copy()
        for place in rng.integers(6, len(block), 3):
            other[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)])
        assert (
            attacked.explain(encoded(small, "JPEG", exif=bytes(other[: rng.integers(6, len(other) + 1)]))).status == 200
        )


def test_a_slow_client_is_cut_off_and_others_are_served(attacked: Service, cat_png: bytes) -> None:
    """In the middle of its head, in the middle of its body; a byte now and then gains nobody time."""
    begins = {
        "head": b"POST /v1/explain HTTP/1.1\r\nX: ",
        "body": b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n",
    }
    slow = [attacked.connect() for _ in range(20) for _ in begins]
    try:
        begun = time.monotonic()
        for connection, begin in zip(slow, list(begins.values()) * 20, strict=True):
            connection.sendall(begin)
        while time.monotonic() - begun < 0.8:
            time.sleep(0.1)
            for connection in slow:
                connection.sendall(b"x")
            assert attacked.explain(cat_png).status == 200
        for connection in slow:
            answer = read_reply(connection)
            assert (answer.status, answer.error()) == (408, "timeout")
            assert connection.recv(1) == b""
        assert 1 < time.monotonic() - begun < 15  # --timeout is 1.5; nobody waits for 1000 bytes
    finally:
        for connection in slow:
            connection.close()


def test_a_silent_client_is_let_go(attacked: Service) -> None:
    with attacked.connect() as silent, attacked.connect() as kept:
        begun = time.monotonic()
        kept.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_reply(kept).status == 200
        assert silent.recv(1) == b""
        assert kept.recv(1) == b""
        assert 1.5 < time.monotonic() - begun < 5  # --idle is 2


def test_a_client_that_does_not_read_is_cut_off(attacked: Service, cat_png: bytes) -> None:
    """Its answers fill the socket's buffers; then the deadline of sending runs out."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", attacked.port))
        connection.settimeout(0.2)
        request = b"GET /metrics HTTP/1.1\r\n\r\n" * 2000
        begun, cut_off = time.monotonic(), False
        while not cut_off:
            assert time.monotonic() - begun < 20
            try:
                connection.sendall(request)
            except TimeoutError:
                continue
            except OSError:
                cut_off = True
    while attacked.metrics()["saliport_in_flight"] > 1:
        assert time.monotonic() - begun < 30
        time.sleep(0.1)


def test_a_half_closed_connection_is_answered(attacked: Service, cat_png: bytes) -> None:
    with attacked.connect() as connection:
        connection.sendall(
            f"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(cat_png)}\r\n\r\n".encode()
        )
        connection.sendall(cat_png)
        connection.shutdown(socket.SHUT_WR)
        assert read_reply(connection).body == attacked.explain(cat_png).body
        assert connection.recv(1) == b""
    with attacked.connect() as connection:
        connection.sendall(b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        answer = read_reply(connection)
        assert (answer.status, answer.error()) == (400, "incomplete_body")


def test_clients_that_vanish_leave_nothing_behind(attacked: Service, cat_png: bytes) -> None:
    request = (
        f"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(cat_png)}\r\n\r\n".encode()
        + cat_png
    )
    descriptors = len(list(Path(f"/proc/{attacked.process.pid}/fd").iterdir()))
    for end in (0, 1, 30, 200, 5000, len(request)) * 5:
        connection = attacked.connect()
        connection.sendall(request[:end])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
        connection.close()
    assert attacked.explain(cat_png).status == 200
    begun = time.monotonic()
    while len(list(Path(f"/proc/{attacked.process.pid}/fd").iterdir())) > descriptors:
        assert time.monotonic() - begun < 10
        time.sleep(0.1)


def test_requests_follow_each_other_on_one_connection(attacked: Service, cat_png: bytes) -> None:
    request = (
        f"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(cat_png)}\r\n\r\n".encode()
        + cat_png
    )
    alone = attacked.explain(cat_png)
    with attacked.connect() as connection:
        for _ in range(20):
            connection.sendall(request)
            answer = read_reply(connection)
            assert answer == alone._replace(headers=answer.headers)
            assert "Connection" not in answer.headers
        bad = attacked.explain(b"\x89PNG\r\n\x1a\nbroken")  # an error of the image alone does not end the connection
        connection.sendall(request.replace(cat_png[:60], b"\x89PNG\r\n\x1a\n" + bytes(52)))
        assert read_reply(connection).status == bad.status == 422
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n", 1))
        answer = read_reply(connection)
        assert answer.headers["Connection"] == "close"
        assert connection.recv(1) == b""


def test_requests_may_be_sent_ahead(attacked: Service, cat_png: bytes) -> None:
    with attacked.connect() as connection:
        connection.sendall(b"\r\nGET /healthz HTTP/1.1\r\n\r\n" * 3 + b"HEAD /healthz HTTP/1.0\r\n\r\n")
        file = b""
        while piece := connection.recv(4096):
            file += piece
    assert file.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert file.count(b'{"status": "ok"}') == 3


def test_metrics_count(binary: Path, artifact: Path, cat_png: bytes) -> None:
    with Service(binary, artifact) as service:
        for _ in range(3):
            service.explain(cat_png)
        service.explain(b"\x89PNG\r\n\x1a\n")
        service.ask("GET", '/"}{')
        text = service.ask("GET", "/metrics")
        assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        deadline = time.monotonic() + 10
        while (found := service.metrics())["saliport_in_flight"] != 1 and time.monotonic() < deadline:
            time.sleep(0.05)  # an answer may arrive before its request counts as done
        assert found['saliport_requests_total{path="/v1/explain",status="200"}'] == 3
        assert found['saliport_requests_total{path="/v1/explain",status="422"}'] == 1
        assert found['saliport_requests_total{path="other",status="404"}'] == 1
        assert found["saliport_explain_seconds_count"] == 3
        assert found['saliport_explain_seconds_bucket{le="+Inf"}'] == 3
        assert 0 < found["saliport_explain_seconds_sum"] < 30
        assert found["saliport_queue_depth"] == 0
        assert found["saliport_in_flight"] == 1  # this very request
        assert found["process_resident_memory_bytes"] > 10e6


@pytest.fixture(scope="module")
def heavy() -> bytes:
    """An image that takes a worker a while: 16 million pixels in a small file."""
    return png(np.zeros((4096, 4096), np.uint8))


def test_a_full_queue_answers_503_and_does_not_grow(binary: Path, artifact: Path, heavy: bytes) -> None:
    with (
        Service(binary, artifact, "--workers", "1", "--queue", "2", "--max-pixels", "16M") as service,
        concurrent.futures.ThreadPoolExecutor(24) as pool,
    ):
        answers = list(pool.map(lambda _: service.explain(heavy), range(24)))
        busy = [answer for answer in answers if answer.status == 503]
        served = [answer for answer in answers if answer.status == 200]
        assert len(busy) + len(served) == 24
        assert len(served) >= 3
        assert len(busy) >= 10
        assert {answer.error() for answer in busy} == {"busy"}
        assert {answer.headers["Retry-After"] for answer in busy} == {"1"}
        assert len({answer.body for answer in served}) == 1
        assert service.metrics()['saliport_rejected_total{reason="queue"}'] == len(busy)
        assert service.explain(heavy).status == 200


def test_too_many_connections_are_told_so(binary: Path, artifact: Path) -> None:
    with Service(binary, artifact, "--connections", "4") as service:
        held = [service.connect() for _ in range(4)]
        time.sleep(0.3)
        with service.connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            answer = read_reply(connection)
        assert (answer.status, answer.error(), answer.headers["Retry-After"]) == (503, "busy", "1")
        flood = [service.connect() for _ in range(200)]
        assert service.status("Threads") < 40
        with service.connect(2) as connection:  # nor is there a thread that could say so
            assert connection.recv(1) == b""
        for connection in held + flood:
            connection.close()
        time.sleep(0.3)
        assert service.ask("GET", "/healthz").status == 200


def hold(service: Service, connections: list[socket.socket], data: bytes) -> None:
    """Send a part of a body, and wait until it has arrived."""
    expected = service.status("VmRSS") + len(connections) * len(data) * 0.9 / 1024
    for connection in connections:
        connection.sendall(data)
    begun = time.monotonic()
    while service.status("VmRSS") < expected:
        assert time.monotonic() - begun < 9
        time.sleep(0.02)


LENGTHS = {"announced": (b"Content-Length: 8388608", b""), "chunked": (b"Transfer-Encoding: chunked", b"800000\r\n")}


@pytest.mark.parametrize("how", LENGTHS)
def test_bodies_do_not_take_all_memory(how: str, binary: Path, artifact: Path, cat_png: bytes) -> None:
    """They take it as they arrive: who sends nothing keeps nobody out, and for who sends too much there is no room."""
    length, start = LENGTHS[how]
    head = b"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\n%b\r\n\r\n" % length
    with Service(binary, artifact, "--max-body", "8M", "--body-memory", "24M") as service:
        held = [service.connect() for _ in range(8)]
        for connection in held:
            connection.sendall(head + start)
        time.sleep(0.3)
        assert service.explain(cat_png).status == 200
        hold(service, held[:3], bytes(7_000_000))
        held[3].sendall(bytes(7_000_000))
        answer = read_reply(held[3])
        assert (answer.status, answer.error()) == (503, "busy")
        if how == "announced":  # then it is known before it is sent
            with service.connect() as connection:
                connection.sendall(head)
                assert read_reply(connection).error() == "busy"
        assert service.metrics()['saliport_rejected_total{reason="memory"}'] == 1 + (how == "announced")
        for connection in held:
            connection.close()


def test_sigterm_finishes_what_has_begun(binary: Path, artifact: Path, heavy: bytes, cat_png: bytes) -> None:
    service = Service(binary, artifact, "--workers", "1", "--queue", "64", "--max-pixels", "16M")
    head = f"POST /v1/explain HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: {len(cat_png)}\r\n\r\n".encode()
    alone = service.explain(heavy)
    upload, idle, kept = service.connect(), service.connect(), service.connect()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        running = [pool.submit(service.explain, heavy) for _ in range(12)]
        upload.sendall(head + cat_png[:1000])
        kept.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_reply(kept).status == 200
        while service.metrics()["saliport_in_flight"] < 14:
            time.sleep(0.02)
        ended = threading.Thread(target=service.end)
        ended.start()
        while service.ask("GET", "/healthz").status == 200:
            time.sleep(0.02)
        # A connection that was kept open, a new one, and the upload that had begun.
        kept.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = read_reply(kept)
        assert (answer.status, answer.error(), answer.headers["Connection"]) == (503, "shutting_down", "close")
        answer = service.explain(cat_png)
        assert (answer.status, answer.error(), answer.headers["Retry-After"]) == (503, "shutting_down", "1")
        upload.sendall(cat_png[1000:])
        answer = read_reply(upload)
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        assert {future.result().body for future in running} == {alone.body}
    assert idle.recv(1) == b""
    ended.join()
    assert service.process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        service.connect()
    for connection in (upload, idle, kept):
        connection.close()
