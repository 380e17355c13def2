"""The runtimes: how each is called, measured and weighed."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scripts.matrix.installed import OLDEST, Installed, work
from scripts.matrix.trials import BATCHES, PLAIN, NotRun, Row, Trial, batches, judge


@dataclass(frozen=True)
class InPython:
    """A runtime that the worker runs.

    Attributes:
        runtime: As the worker calls it.
        file: What it loads from an artifact.
        packages: Where it is installed; None: with this Python.
        tuned: Whether it runs the artifact that was optimized for it.
    """

    runtime: str
    file: str
    packages: Callable[[], Path] | None = None
    tuned: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.runtime} (Python)" + (f", `--optimize-for {self.runtime}`" if self.tuned else "")

    def run(self, trial: Trial, rounds: int) -> Row:
        """Explain and measure one trial."""
        outputs = trial.artifact.parent / "outputs.npz"
        artifact = trial.tuned if self.tuned else trial.artifact
        task = [str(artifact / self.file), str(trial.inputs), str(outputs)]
        job: dict[str, Any] = {"runtime": self.runtime, "explain": [task]}
        if trial.forward:
            models = [str(folder / self.file) for folder in (artifact, trial.forward)]
            job["measure"] = {"models": models, "inputs": str(trial.inputs), "rounds": rounds}
        answer = work(job, self.packages() if self.packages else None)
        if answer["explain"][0]:
            raise NotRun(answer["explain"][0])
        with np.load(outputs) as arrays:
            found = [arrays[f"attribution_{index}"] for index in range(len(BATCHES))]
        row = judge(self.name, answer["version"], trial, found)
        explained, forward = answer.get("measure", (None, None))
        return dataclasses.replace(row, explained=explained, forward=forward, mib=answer["bytes"] / 2**20)


@dataclass(frozen=True)
class Program:
    """A built program with the examples' command line.

    Attributes:
        name: What the table calls it.
        library: The file name of the runtime's library, as ``ldd`` shows it.
        binary: The program; None where it was not given.
    """

    name: str
    library: str
    binary: Path | None

    def run(self, trial: Trial, rounds: int) -> Row:
        """Explain and measure one trial; each measurement is a process of its own, the two models' take turns."""
        if self.binary is None:
            raise NotRun("not run: its program was not given")
        found = []
        for image, target in batches(trial):
            self._call(trial.artifact, image, target, "--output", str(trial.artifact.parent / "out.npz"))
            with np.load(trial.artifact.parent / "out.npz") as output:
                found.append(output["attribution"])
        row = judge(self.name, self._version(), trial, found)
        explained, forward = self._measure(trial, rounds) if trial.forward else (None, None)
        return dataclasses.replace(row, explained=explained, forward=forward, mib=self._bytes() / 2**20)

    def _measure(self, trial: Trial, rounds: int) -> tuple[float, float]:
        assert trial.forward
        times: dict[Path, list[float]] = {trial.artifact: [], trial.forward: []}
        image, target = next(batches(trial))
        for _ in range(TURNS):
            for folder, found in times.items():
                text = self._call(folder, image, target, "--repeat", str(-(-rounds // TURNS)), "--threads", "1")
                found.append(middle(text))
        return statistics.median(times[trial.artifact]), statistics.median(times[trial.forward])

    def _call(self, folder: Path, image: Any, target: Any, *options: str) -> str:
        assert self.binary
        given = folder.parent / "image.npy"
        np.save(given, image)
        classes = ",".join(map(str, target))
        return call([str(self.binary), str(folder), str(given), f"--target={classes}", *options], split=True)

    def _libraries(self) -> list[Path]:
        lines = call(["ldd", str(self.binary)]).splitlines()
        paths = [Path(match[1]).resolve() for line in lines if (match := re.search(r"=> (/\S+)", line))]
        return [path for path in paths if not path.is_relative_to("/lib") and not path.is_relative_to("/usr/lib")]

    def _version(self) -> str:
        found = [path.name for path in self._libraries() if path.name.startswith(self.library)]
        match = re.search(r"\.so\.([\d.]+)$", found[0]) if found else None
        return match[1] if match else version("torch")

    def _bytes(self) -> int:
        assert self.binary
        return sum(path.stat().st_size for path in {self.binary, *self._libraries()})


TURNS = 5
"""How often the two models' processes take turns."""


@dataclass(frozen=True)
class Node:
    """The web example's programs in Node; its benchmark takes turns by itself.

    Attributes:
        folder: ``examples/web``; None where it was not given.
    """

    folder: Path | None
    name: str = "onnxruntime-web (Node, wasm)"

    def run(self, trial: Trial, rounds: int) -> Row:
        """Explain and measure one trial."""
        if self.folder is None:
            raise NotRun("not run: its folder was not given")
        found = []
        for image, target in batches(trial):
            place = trial.artifact.parent / "node"
            self._call("run.mjs", trial.artifact, image, target, "--output", str(place))
            found.append(np.load(place / "attribution.npy"))
        package = json.loads((self.folder / "node_modules/onnxruntime-web/package.json").read_text())
        row = judge(self.name, package["version"], trial, found)
        explained, forward = self._measure(trial, rounds) if trial.forward else (None, None)
        return dataclasses.replace(row, explained=explained, forward=forward, mib=self._bytes() / 2**20)

    def _measure(self, trial: Trial, rounds: int) -> tuple[float, float]:
        assert self.folder
        plain = trial.artifact.parent / PLAIN
        bench = str(self.folder / "bench.mjs")
        text = call(["node", bench, str(trial.artifact), str(plain), "--repeat", str(rounds)])
        match = re.search(r"forward ([\d.]+) ms, with its map ([\d.]+) ms", text)
        if match is None:
            raise NotRun(f"bench.mjs printed no times: {text.strip()}")
        return float(match[2]), float(match[1])

    def _call(self, program: str, folder: Path, image: Any, target: Any, *options: str) -> str:
        assert self.folder
        given = folder.parent / "image.npy"
        np.save(given, image)
        classes = ",".join(map(str, target))
        return call(["node", str(self.folder / program), str(folder), str(given), f"--target={classes}", *options])

    def _bytes(self) -> int:
        """Return what a page with wasm, and without WebGPU, loads of the runtime."""
        assert self.folder
        return sum((self.folder / "node_modules/onnxruntime-web/dist" / name).stat().st_size for name in WEB_FILES)


WEB_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def call(command: Sequence[str], split: bool = False) -> str:
    """Run a program and return what it prints; ``split`` writes ``--option=value`` as two arguments."""
    if split:
        command = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotRun((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout


def middle(text: str) -> float:
    """Return the median time that a program prints, in milliseconds."""
    match = re.search(r"(?:p50|median)\D*([\d.]+)", text)
    if match is None:
        raise NotRun(f"printed no median: {text.strip()}")
    return float(match[1])


def choose(installed: Installed, cpp: Path | None, libtorch: Path | None, web: Path | None) -> list[Any]:
    """Return all runtimes, in the table's order."""
    return [
        InPython("onnxruntime", "model.onnx"),
        InPython("onnxruntime", "model.onnx", lambda: installed(OLDEST)),
        Program("onnxruntime (C++)", "libonnxruntime", cpp),
        Node(web),
        InPython("openvino", "model.onnx"),
        InPython("openvino", "model.onnx", tuned=True),
        InPython("torchscript", "model.pt"),
        Program("torchscript (C++)", "libtorch", libtorch),
    ]
