"""Many clients at once, for a while: no answer differs from the single client's, and memory is flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.examples.service.client import Service, encoded
from tests.examples.service.conftest import SOURCE


def load(service: Service, folder: Path, clients: int, seconds: float) -> dict[str, object]:
    """Run ``load.py`` on three images, and return its row."""
    images = {"cat.png": skimage.data.chelsea(), "coffee.png": skimage.data.coffee()[::2, ::2]}
    for name, pixels in images.items():
        (folder / name).write_bytes(encoded(Image.fromarray(pixels)))
    (folder / "rocket.jpg").write_bytes(encoded(Image.fromarray(skimage.data.rocket()), "JPEG"))
    report = folder / "report.json"
    result = subprocess.run(
        [
            *(sys.executable, SOURCE / "load.py", f"http://{service.address}"),
            *sorted(folder.glob("*.[pj][np]g")),
            *("--clients", str(clients), "--seconds", str(seconds), "--json", report),
        ],
        capture_output=True,
        text=True,
    )
    found = json.loads(report.read_text())
    assert (result.returncode, found["wrong"]) == (0, []), result.stdout + result.stderr
    return found["rows"][0]


@pytest.mark.soak
def test_64_clients_for_a_minute(binary: Path, artifact: Path, tmp_path: Path) -> None:
    with Service(binary, artifact) as service:
        row = load(service, tmp_path, 64, 60)
        assert row["answers"] > 1000
        _, middle, last = row["resident_mib"]
        assert abs(last - middle) < 0.02 * middle + 1
        counts = service.metrics()
        assert counts['saliport_requests_total{path="/v1/explain",status="200"}'] == row["answers"] + 12
        assert all(value == 0 for name, value in counts.items() if name.startswith("saliport_rejected"))


def test_64_clients_find_no_fault_with_sanitizers(sanitized: Path, artifact: Path, tmp_path: Path) -> None:
    """Leaving the service's context asks for exit status 0: AddressSanitizer and LeakSanitizer found nothing."""
    with Service(sanitized, artifact) as service:
        assert load(service, tmp_path, 64, 6)["answers"] > 64
