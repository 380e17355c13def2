"""``python io_binding.py ARTIFACT``: onnxruntime's IO binding, with outputs that are made once and used by every call.

``Bound`` is for copying into a service. The command measures whether it pays, beside ``session.run``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray


class Bound:
    """A session and its buffers, for batches of one size: fill ``image`` and ``target``, call, read the outputs.

    The arrays are the runtime's own memory: nothing is copied or allocated in a call, and the next call overwrites
    them. One object serves one thread at a time; several may share a session.

    Fill them in place, ``bound.image[...] = batch``. They cannot be replaced: the runtime reads and writes where the
    first ones lie.
    """

    def __init__(self, session: onnxruntime.InferenceSession, image: tuple[int, ...]) -> None:
        """Make the buffers for images of one shape, the batch included."""
        shapes = {given.name: given for given in (*session.get_inputs(), *session.get_outputs())}
        dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[shapes["image"].type]
        self._image = np.zeros(image, dtype)
        self._target = np.full(image[0], -1, np.int64)
        self._logits = np.zeros((image[0], shapes["logits"].shape[1]), dtype)
        self._attribution = np.zeros(image, dtype)
        self._session, self._binding = session, session.io_binding()
        for name in ("image", "target"):
            self._binding.bind_input(name, "cpu", 0, *_place(getattr(self, name)))
        for name in ("logits", "attribution"):
            self._binding.bind_output(name, "cpu", 0, *_place(getattr(self, name)))

    def __call__(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Run on what ``image`` and ``target`` hold; returns ``logits`` and ``attribution``."""
        self._session.run_with_iobinding(self._binding)
        return self.logits, self.attribution

    @property
    def image(self) -> NDArray[Any]:
        """The input, in the artifact's dtype."""
        return self._image

    @property
    def target(self) -> NDArray[np.int64]:
        """``[N]``, -1 (the predicted class) to begin with."""
        return self._target

    @property
    def logits(self) -> NDArray[Any]:
        """``[N, K]``, of the last call."""
        return self._logits

    @property
    def attribution(self) -> NDArray[Any]:
        """The image's shape, of the last call."""
        return self._attribution


def _place(array: NDArray[Any]) -> tuple[Any, tuple[int, ...], int]:
    return array.dtype.type, array.shape, array.ctypes.data


def open_session(folder: Path, threads: int) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Return a session on an artifact's model and the manifest, whose hashes are checked."""
    manifest, model = json.loads((folder / "manifest.json").read_bytes()), (folder / "model.onnx").read_bytes()
    seal, rest = manifest.pop("manifest_sha256", None), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    hashes = [hashlib.sha256(data).hexdigest() for data in (rest.encode(), model)]
    if manifest["schema"] != 2 or hashes != [seal, manifest["files"]["onnx"]["sha256"]]:
        raise SystemExit(f"{folder} is not what was proven")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # less memory, in the same time
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), manifest


def medians(calls: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return each call's median time in milliseconds; they take turns, so that a busy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_ >= 2:  # the first two warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(found)) for name, found in times.items()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Measure onnxruntime's IO binding beside session.run.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    session, manifest = open_session(args.artifact, args.threads)
    bound = Bound(session, (args.batch, *manifest["inputs"][0]["sample_shape"]))
    images: ArrayLike = np.random.default_rng(0).standard_normal(bound.image.shape).astype(bound.image.dtype)
    feed = {"image": images, "target": bound.target}

    def with_binding() -> None:
        bound.image[...] = images  # a service writes its decoded image there; here it is one more copy
        bound()

    found = medians({"run": lambda: session.run(None, feed), "binding": with_binding}, args.rounds)
    print(f"batch {args.batch}, {args.threads} thread(s), medians of {args.rounds} calls that take turns:")
    print(f"session.run {found['run']:.3f} ms, IO binding {found['binding']:.3f} ms,", end=" ")
    print(f"ratio {found['binding'] / found['run']:.3f}")


if __name__ == "__main__":
    main()
