"""Runs models in one runtime, in a process of its own, for ``scripts/runtimes.py``; needs numpy and that runtime.

Reads one JSON object from standard input, and writes one to standard output:

- ``runtime``: onnxruntime, openvino or torchscript; whichever version this process finds.
- ``explain``: ``[model, inputs.npz, outputs.npz]`` triples. The inputs hold ``image_0``, ``target_0``, ``image_1``, …;
  the outputs ``logits_0``, ``attribution_0``, …. The answer has an error's text for each, or an empty one.
- ``measure``: ``{"models": [...], "inputs": inputs.npz, "rounds": N}``. The models take turns; the answer has the
  median time of each for the first batch, in milliseconds.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 3
"""Calls before the measured ones: TorchScript compiles in its first two."""

Model = Callable[[Any, Any], Any]


def onnxruntime(path: str) -> Model:
    """Open an ONNX file in onnxruntime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image, target: session.run(["logits", "attribution"], {"image": image, "target": target})


def openvino(path: str) -> Model:
    """Compile an ONNX file with OpenVINO, as the example does, one thread."""
    import openvino

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "openvino"))
    example = importlib.import_module("explain")
    core = openvino.Core()
    graph = core.read_model(path)
    request = core.compile_model(graph, "CPU", {**example.HINTS, "INFERENCE_NUM_THREADS": 1}).create_infer_request()

    def run(image: Any, target: Any) -> Any:
        found = request.infer({"image": image, "target": target})
        return found["logits"], found["attribution"]

    return run


def torchscript(path: str) -> Model:
    """Load a TorchScript file, one thread."""
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(path)
    if getattr(module, "training", None) is not None:  # a frozen one has none
        module = torch.jit.freeze(module.eval())

    def run(image: Any, target: Any) -> Any:
        with torch.no_grad():
            return [tensor.numpy() for tensor in module(torch.from_numpy(image), torch.from_numpy(target))]

    return run


RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino, "torchscript": torchscript}
PACKAGES = {"torchscript": "torch"}
"""Runtime -> the package that it is in, where its name is another."""


def batches(path: str) -> list[tuple[Any, Any]]:
    """Read the inputs of one model."""
    with np.load(path) as found:
        return [(found[f"image_{index}"], found[f"target_{index}"]) for index in range(len(found.files) // 2)]


def explain(open_model: Callable[[str], Model], model: str, inputs: str, outputs: str) -> str:
    """Write what a model returns; returns the reason where it does not run."""
    arrays = {}
    try:
        run = open_model(model)
        for index, (image, target) in enumerate(batches(inputs)):
            arrays[f"logits_{index}"], arrays[f"attribution_{index}"] = (
                np.array(value) for value in run(image, target)
            )
    except Exception as error:  # each runtime has its own types
        return " ".join(str(error).split())
    np.savez(outputs, **arrays)
    return ""


def measure(open_model: Callable[[str], Model], models: list[str], inputs: str, rounds: int) -> list[float]:
    """Return each model's median time; they take turns, so that a busy machine disturbs all alike."""
    opened, (image, target) = [open_model(model) for model in models], batches(inputs)[0]
    times: list[list[float]] = [[] for _ in models]
    for turn in range(WARM_UP + rounds):
        for model, found in zip(opened, times, strict=True):
            start = time.perf_counter()
            model(image, target)
            if turn >= WARM_UP:
                found.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(found)) for found in times]


def main() -> None:
    """Do one job."""
    job = json.load(sys.stdin)
    open_model = RUNTIMES[job["runtime"]]
    package = importlib.import_module(PACKAGES.get(job["runtime"], job["runtime"]))
    folder = Path(package.__file__ or "").parent
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    answer: dict[str, Any] = {"version": package.__version__.partition("-")[0], "bytes": size}
    answer["explain"] = [explain(open_model, *task) for task in job.get("explain", [])]
    if "measure" in job:
        answer["measure"] = measure(open_model, **job["measure"])
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
