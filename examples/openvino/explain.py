"""``python explain.py ARTIFACT INPUT --output out.npz``: run an artifact's ``model.onnx`` as it is with OpenVINO.

INPUT is a photograph, or a .npy file with a batch as the network takes it: float32 ``[N, ...]``, normalised. The output
is an .npz file with ``logits`` and ``attribution``, or a .png file with the first image's map. Needs ``openvino`` and
``numpy``, for pictures ``pillow`` too; ``Explainer`` is for copying into a service.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import ArrayLike, NDArray

SCHEMA = 2
"""Of the manifest; another may mean something else by the same words."""

HINTS = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
"""Without them OpenVINO computes in bfloat16 or float16 where the processor can, which is not what was proven."""


PLAIN = {
    "model": (frozenset({1, 2, 3, 4, 5, 6, 8, 14}), {7: "graph"}),
    "graph": (frozenset({2, 10, 11, 12, 13, 14, 16}), {1: "node", 5: "tensor"}),
    "node": (frozenset({1, 2, 3, 4, 6, 7, 8, 9}), {5: "attribute"}),
    "attribute": (frozenset({1, 2, 3, 4, 7, 8, 9, 13, 14, 20, 21}), {5: "tensor", 10: "tensor"}),
    "tensor": (frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16}), {}),
}
"""Fields of ONNX's messages that a model may have, by their numbers in onnx.proto, and which of them are messages.

No tensor may have external_data (13): it lies in another file, which OpenVINO would read. Subgraphs, functions and
sparse tensors, which no artifact has, could hold such tensors."""


class Refused(Exception):
    """The artifact, the image or the target is not one that can be run; the text says what is wrong with it."""


class Explainer:
    """A compiled artifact: ``explainer(image, target) -> (logits, attribution)``; safe to call from many threads."""

    def __init__(self, folder: str | os.PathLike[str], *, device: str = "CPU", threads: int = 0) -> None:
        """Read, check and compile; 0 threads leaves their number to OpenVINO.

        Raises:
            Refused: The folder is no artifact of one image, or its model is not the one that was proven.
        """
        self.manifest, model = read(Path(folder))
        self.image, target = self.manifest["inputs"]
        self.first, self.last = target["range"]
        core = openvino.Core()
        hints = {**HINTS, **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        graph = core.read_model(io.BytesIO(model))
        self.compiled = core.compile_model(graph, device, hints)

    def __call__(self, image: NDArray[Any], target: ArrayLike = -1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predict and explain a batch.

        Args:
            image: ``[N, ...]``, of the manifest's dtype.
            target: One class for all, or one for each; -1 is the predicted class.

        Raises:
            Refused: The image or the target is not one that the artifact takes.
        """
        given, wanted = np.asarray(target), self.image
        if image.dtype != wanted["dtype"] or not self._fits(image.shape):
            raise Refused(f"the image is {image.dtype} {list(image.shape)}, not {wanted['dtype']} {wanted['shape']}")
        # Of NaN the proven runtimes make NaN; OpenVINO makes a class of it.
        if not np.isfinite(image).all():
            raise Refused("the image holds NaN or infinity; OpenVINO would answer as if to an ordinary one")
        # OpenVINO does not refuse a class that does not exist: it answers with zeros, or cuts the number to 32 bits.
        if given.dtype.kind not in "iu" or given.shape not in ((), image.shape[:1]):
            raise Refused(f"the target is {given.dtype} {list(given.shape)}; give one class, or one for each image")
        if ((given < self.first) | (given > self.last)).any():
            raise Refused(f"the target {given.tolist()} is out of range: {self.first} (predicted) to {self.last}")
        target = np.full(len(image), given, dtype=np.int64)
        request = self.compiled.create_infer_request()  # one each call: a request holds the buffers of its results
        found = request.infer({wanted["name"]: np.ascontiguousarray(image), "target": target})
        return found["logits"].copy(), found["attribution"].copy()

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a shape is one that the graph is good for; a name in the manifest's is a size that varies."""
        limits = {size["name"]: size for size in self.manifest["dynamic"]}
        if len(shape) != len(self.image["shape"]):
            return False
        for size, wanted in zip(shape, self.image["shape"], strict=True):
            limit = limits.get(wanted, {"min": wanted, "multiple_of": 1, "max": wanted})
            if not limit["min"] <= size <= limit.get("max", size) or (size - limit["min"]) % limit["multiple_of"]:
                return False
        return True


def read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return an artifact's manifest and its ONNX model, both of them as they were proven, by their hashes.

    The name of the file is fixed, and the bytes that were hashed are the bytes that run.

    Raises:
        Refused: A file is missing or has changed, or the manifest is of another schema.
    """
    try:
        text = (folder / "manifest.json").read_bytes()
        manifest = json.loads(text.decode())
        model = (folder / "model.onnx").read_bytes()
    except (OSError, ValueError) as error:
        raise Refused(f"{folder} is not an artifact with an ONNX model: {error}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise Refused(f"{folder} has a manifest of schema {schema!r}; this program reads {SCHEMA}")
    # The seal is the last entry, and the hash of the text as it would be without it.
    rest, _, seal = text.rpartition(b',\n  "manifest_sha256": ')
    if seal != b'"%s"\n}\n' % hashlib.sha256(rest + b"\n}\n").hexdigest().encode():
        path = folder / "manifest.json"
        raise Refused(f"{path} has changed since it was written: its manifest_sha256 does not match")
    missing = [key for key in ("model", "inputs", "dynamic", "files") if key not in manifest]
    if missing:
        raise Refused(f"{folder} has a damaged manifest: it lacks {', '.join(missing)}")
    if [given["name"] for given in manifest["inputs"]] != ["image", "target"]:
        raise Refused(f"{folder} takes several inputs; this program takes one image and a target")
    if hashlib.sha256(model).hexdigest() != manifest["files"].get("onnx", {}).get("sha256"):
        raise Refused(f"{folder / 'model.onnx'} has changed since it was proven: its sha256 is not the manifest's")
    try:
        check_plain(memoryview(model))
    except ValueError as error:
        raise Refused(f"{folder / 'model.onnx'} {error}") from error
    return manifest, model


def check_plain(message: memoryview, kind: str = "model") -> None:
    """Refuse what is not plain operators on weights that the file itself holds.

    Raises:
        ValueError: The text says what there is besides.
    """
    allowed, messages = PLAIN[kind]
    for number, content in fields(message):
        if (kind, number) == ("tensor", 13):
            raise ValueError("refers to another file; an artifact's weights are all in it")
        if number in messages:
            check_plain(content, messages[number])
        elif number not in allowed:
            raise ValueError(f"is no model of Saliport's: its {kind} has protobuf field {number}")


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of each field of a protobuf message; of one that is a number, no bytes."""
    start = 0
    while start < len(message):
        tag, start = varint(message, start)
        match tag & 7:
            case 0:
                size, (_, start) = 0, varint(message, start)
            case 1:
                size = 8
            case 2:
                size, start = varint(message, start)
            case 5:
                size = 4
            case _:
                raise ValueError("is no protobuf")
        if size > len(message) - start:
            raise ValueError("is no protobuf")
        yield tag >> 3, message[start : start + size]
        start += size


def varint(message: memoryview, start: int) -> tuple[int, int]:
    """Return a number as protobuf writes it, and where it ends."""
    value = 0
    for index, byte in enumerate(message[start : start + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise ValueError("is no protobuf")


def read_input(path: Path, explainer: Explainer) -> NDArray[Any]:
    """Return a batch: what an .npy file holds, or one photograph, cut, scaled and normalised as the manifest says."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    from PIL import Image, ImageOps

    if len(explainer.image["sample_shape"]) != 3 or explainer.image["sample_shape"][0] not in (1, 3):
        raise Refused(f"the artifact takes {explainer.image['shape']}, which is no picture; give an .npy file")
    channels, height, width = explainer.image["sample_shape"]
    preprocessing = explainer.manifest["model"].get("preprocessing", {"mean": [0.0], "std": [1.0]})
    mean, std = (np.float32(preprocessing[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    upright = ImageOps.exif_transpose(Image.open(path))  # as the camera was held
    if upright.mode[0] in "IF":
        raise Refused(f"{path} has more than 8 bits a value, which Pillow would cut off; save it in 8")
    picture = ImageOps.fit(upright.convert("RGB" if channels == 3 else "L"), (width, height))
    values = np.asarray(picture, dtype=np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255
    return ((values - mean) / std)[None].astype(explainer.image["dtype"])


def write(path: Path, logits: NDArray[Any], attribution: NDArray[Any]) -> None:
    """Write everything to an .npz file, or the positive part of the first map as a grey picture."""
    if path.suffix == ".npz":
        np.savez(path, logits=logits, attribution=attribution)
        return
    from PIL import Image

    heat = np.maximum(attribution[0], 0).sum(0)
    Image.fromarray(np.uint8(255 * np.clip(heat / (np.percentile(heat, 99.5) or 1), 0, 1))).save(path)


def top(logits: NDArray[Any], names: list[str] | None, count: int = 3) -> str:
    """Name the likeliest classes of one image, with their probabilities."""
    odds = np.exp(logits - logits.max(), dtype=np.float64)
    best = np.argsort(-odds, kind="stable")[:count]
    return ", ".join(f"{names[k] if names else f'class {k}'} {odds[k] / odds.sum():.1%}" for k in best)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Predict and explain with OpenVINO.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("input", type=Path, help="a photograph, or .npy as the network takes it")
    parser.add_argument("--target", type=int, nargs="+", default=[-1], help="one class, or one for each image")
    parser.add_argument("--output", type=Path, required=True, help=".npz with everything, or .png of the first map")
    parser.add_argument("--device", default="CPU", help="what OpenVINO calls it; only CPU is tested")
    parser.add_argument("--threads", type=int, default=0, help="default: OpenVINO's choice")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="print the median time of N more runs")
    args = parser.parse_args()
    if args.output.suffix not in (".npz", ".png"):
        parser.error(f"--output {args.output}: write to .npz or .png")
    try:
        explainer = Explainer(args.artifact, device=args.device, threads=args.threads)
        image = read_input(args.input, explainer)
        target = args.target[0] if len(args.target) == 1 else args.target
        logits, attribution = explainer(image, target)
        write(args.output, logits, attribution)
    except (Refused, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"explain: {error}")
    for row in logits:
        print(top(row, explainer.manifest["model"].get("classes")))
    if args.repeat:
        milliseconds = []
        for _ in range(args.repeat):
            start = time.perf_counter()
            explainer(image, target)
            milliseconds.append(1e3 * (time.perf_counter() - start))
        print(f"median {np.median(milliseconds):.2f} ms of {args.repeat} runs")


if __name__ == "__main__":
    main()
