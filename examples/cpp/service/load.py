"""``python load.py URL IMAGE… --clients 1 8 64 --seconds 20``: throughput, latency and memory of a running service.

Every client keeps its connection and asks again as soon as it is answered, for each image in each format in turn.
Before that one client alone asks for each once: every later answer must be the same to the byte. Exit status 1 where
one is not. The standard library is all that this needs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

FORMATS = ("json", "raw", "heatmap", "overlay")
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass
class Run:
    """What one number of clients found."""

    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0  # until the last client was answered
    wrong: list[str] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)


class Client:
    """One connection, made anew where the server has ended it."""

    def __init__(self, address: str) -> None:
        """Take the server's host:port."""
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def explain(self, path: Path, data: bytes, format: str) -> tuple[int, bytes]:
        """Return status and body."""
        headers = {"Content-Type": TYPES[path.suffix]}
        self._connection.request("POST", f"/v1/explain?format={format}", data, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def resident(self) -> float:
        """Return the server's resident memory in MiB, from its metrics."""
        self._connection.request("GET", "/metrics")
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise http.client.HTTPException(f"/metrics: status {answer.status}, {text[:200]}")
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return float(values["process_resident_memory_bytes"]) / 2**20


def load(address: str, images: dict[Path, bytes], clients: int, seconds: float) -> Run:
    """Let clients ask for a while, and watch the server's memory."""
    alone = Client(address)
    work = [(path, data, format) for path, data in images.items() for format in FORMATS]
    wanted = [alone.explain(*item) for item in work]
    run = Run(
        wrong=[
            f"{path.name} {body[:200]!r}"
            for (path, *_), (status, body) in zip(work, wanted, strict=True)
            if status != 200
        ]
    )
    start = time.monotonic()
    end = start + seconds

    def ask(first: int) -> None:
        client, number = Client(address), first
        while time.monotonic() < end:
            item, number = number % len(work), number + 1
            begin = time.monotonic()
            try:
                found = client.explain(*work[item])
            except (OSError, http.client.HTTPException) as error:
                run.wrong.append(f"{type(error).__name__}: {error}")
                return
            run.seconds.append(time.monotonic() - begin)
            if found != wanted[item]:
                run.wrong.append(f"{work[item][0].name} {work[item][2]}: status {found[0]}, {found[1][:200]!r}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            run.resident.append(alone.resident())
        except (OSError, http.client.HTTPException) as error:
            run.wrong.append(f"{type(error).__name__}: {error}")
            break
        time.sleep(min(1.0, seconds / 20))
    for thread in threads:
        thread.join()
    run.elapsed = time.monotonic() - start
    return run


def main() -> int:
    """Print a table, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="for example http://127.0.0.1:8080")
    parser.add_argument("images", nargs="+", type=Path, help="PNG or JPEG files")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20, help="for each number of clients")
    parser.add_argument("--json", type=Path, help="write the figures to a file, too")
    given = parser.parse_args()
    images = {path: path.read_bytes() for path in given.images}

    rows, wrong = [], []
    print("| clients | answers | per second | p50, ms | p99, ms | memory, MiB: first, middle, last third |")
    print("|---:|---:|---:|---:|---:|---|")
    for clients in given.clients:
        run = load(urlsplit(given.url).netloc, images, clients, given.seconds)
        wrong += run.wrong
        if not run.seconds:
            break
        cuts = statistics.quantiles(run.seconds, n=100) if len(run.seconds) > 1 else run.seconds * 99
        third = max(1, len(run.resident) // 3)
        resident = [statistics.mean(run.resident[i * third : (i + 1) * third] or run.resident) for i in range(3)]
        rows.append(
            {
                "clients": clients,
                "answers": len(run.seconds),
                "per_second": len(run.seconds) / run.elapsed,
                "p50_ms": 1000 * cuts[49],
                "p99_ms": 1000 * cuts[98],
                "resident_mib": resident,
            }
        )
        row = rows[-1]
        memory = ", ".join(f"{value:.1f}" for value in resident)
        print(
            f"| {clients} | {row['answers']:,} | {row['per_second']:.1f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} "
            f"| {memory} |",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "wrong": wrong}, indent=2))
    for line in wrong[:10]:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
