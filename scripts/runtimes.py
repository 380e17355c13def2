"""``python scripts/runtimes.py --report docs/runtimes.md``: what each runtime makes of the same artifacts.

Parity with live autograd, latency beside a forward-only model in the same runtime, and size; and which versions of
onnxruntime load which opset. Results go to ``docs/runtimes.json``; ``--known`` writes the page anew from there. The C++
and Node programs take part where they have been built and are named. Exit status 1: a runtime that ran disagrees.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

METHODS = ("guided", "gradient", "deconvnet")

MODELS = (
    ("cifar_resnet20", 32, METHODS),
    ("resnet18", 64, METHODS),
    ("mobilenet_v2", 64, METHODS),
    ("resnet18", 224, METHODS[:1]),
    ("mobilenet_v2", 224, METHODS[:1]),
)
"""Network, height and width of its images, and the methods whose parity is looked at; latency is guided's."""

QUICK = 2
"""How many of them ``--quick`` takes."""

BATCHES = (1, 5)
TOLERANCE = 1e-5
"""Relative L2 error above which a runtime disagrees, in the median or in a sample that no rounding can excuse."""

OLDEST = "1.15.0"
"""The oldest onnxruntime on PyPI for Python 3.11."""

VERSIONS = (OLDEST, "1.16.0", "1.17.0", "1.18.0", "1.19.0", "1.20.0", "1.21.0", "1.22.0", "1.23.0")
"""The first of each line of releases up to the one that knows the last opset which an export writes."""

OPSETS = range(17, 24)
OPSET_MODELS = (("cifar_resnet20", 32), ("resnet18", 64), ("mobilenet_v2", 64))
NEWEST_NUMPY_1 = "1.18.0"
"""The last of ``VERSIONS`` whose wheels were built for numpy 1."""

WORKER = Path(__file__).with_name("runtimes_worker.py")


class NotRun(Exception):
    """Why a runtime has no results, in a few words."""


@dataclass(frozen=True)
class Row:
    """One runtime's results for one artifact.

    Attributes:
        runtime: Its name, with the language that it was called from.
        version: Its version.
        model: The network.
        image: Height and width of its images.
        method: Of attribution.
        median: Relative L2 error of the samples' attributions, median.
        worst: The largest.
        decided: The largest of the samples in which no comparison hangs on rounding; None where there is none.
        explained: Milliseconds of a call that predicts and explains one image, median; None where it was not measured.
        forward: The same of the forward-only model.
        mib: Size of the runtime, installed.
        reason: Why there are no results; empty where there are.
    """

    runtime: str
    version: str
    model: str
    image: int
    method: str
    median: float | None = None
    worst: float | None = None
    decided: float | None = None
    explained: float | None = None
    forward: float | None = None
    mib: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Opsets:
    """What one version of onnxruntime makes of the opsets.

    Attributes:
        version: Its version.
        claims: The last opset that it takes a file of.
        ir: The last IR version that it takes a file of.
        errors: Per opset that was written, the worst relative L2 error of all samples, or why it does not run.
    """

    version: str
    claims: int
    ir: int
    errors: dict[str, float | str]


@dataclass(frozen=True)
class Trial:
    """An artifact, a forward-only one of the same network, and what live autograd says.

    Attributes:
        model: The network.
        image: Height and width.
        method: Of attribution.
        artifact: Folder.
        forward: Folder of the forward-only artifact; None where latency is not measured.
        inputs: The batches, as the worker reads them.
        expected: Live autograd's attributions of all samples.
        undecided: In how many comparisons of each sample rounding can flip what live autograd does.
    """

    model: str
    image: int
    method: str
    artifact: Path
    forward: Path | None
    inputs: Path
    expected: Any
    undecided: Any


@click.command()
@click.option("--quick", is_flag=True, help="Two networks and few rounds, to see that it runs; keep no figure of it.")
@click.option("--rounds", type=click.IntRange(min=1), default=60, show_default=True, help="Measured calls of each.")
@click.option("--cpp", type=click.Path(exists=True, path_type=Path), help="saliport_run, built in examples/cpp.")
@click.option("--libtorch", type=click.Path(exists=True, path_type=Path), help="saliport_torch, of examples/libtorch.")
@click.option("--web", type=click.Path(exists=True, path_type=Path), help="examples/web, after npm ci.")
@click.option("--no-opsets", is_flag=True, help="Keep what is known of them; else pip installs many an onnxruntime.")
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/runtimes.json"),
    show_default=True,
    help="Where results are kept.",
)
@click.option("--known", is_flag=True, help="Run nothing, report what is known.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the page, docs/runtimes.md.")
def main(
    quick: bool,
    rounds: int,
    cpp: Path | None,
    libtorch: Path | None,
    web: Path | None,
    no_opsets: bool,
    results: Path,
    known: bool,
    report: Path | None,
) -> None:
    """Compare the runtimes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found = read(results) if results.exists() else {"opsets": []}
    if not known:
        measured = 5 if quick else rounds
        with tempfile.TemporaryDirectory() as folder:
            installed = Installed(Path(folder))
            runtimes = choose(installed, cpp, libtorch, web)
            rows = [asdict(row) for row in compare(runtimes, Path(folder), quick, measured)]
            found = {**surroundings(), "rounds": measured, "rows": rows, "opsets": found["opsets"]}
            write(results, found)
            if not no_opsets:
                found["opsets"] = [asdict(row) for row in opset_table(installed, Path(folder), quick)]
                write(results, found)
    if report:
        report.write_text(document(found))
    wrong = disagreements(found)
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(1 if wrong else 0)


def command() -> str:
    """Return the command as it was given; where programs lie is nobody's business."""
    given = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["python", "scripts/runtimes.py", *given])


def read(results: Path) -> dict[str, Any]:
    """Return what an earlier run found."""
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def write(results: Path, found: Mapping[str, Any]) -> None:
    """Keep what was found."""
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n")


def surroundings() -> dict[str, str]:
    """Return what the figures hang on."""
    return {
        "command": command(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# -- the runtimes ----------------------------------------------------------------------------------------------


class Installed:
    """Versions of onnxruntime, each in a folder of its own, installed when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        """Install below a folder."""
        self._folder = folder

    def __call__(self, wanted: str) -> Path:
        """Return the folder with a version and a numpy that goes with it."""
        place = self._folder / f"onnxruntime-{wanted}"
        if not place.exists():
            install(wanted, place)
        return place


def install(wanted: str, place: Path) -> None:
    """Install a version of onnxruntime into a folder, with nothing but the numpy that it needs."""
    old = release(wanted) <= release(NEWEST_NUMPY_1)
    packages = [f"onnxruntime=={wanted}", "numpy<2" if old else "numpy"]
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*command, "--no-deps", "--target", str(place), *packages], check=True)


def release(wanted: str) -> tuple[int, ...]:
    """Return a version as numbers."""
    return tuple(map(int, wanted.split(".")))


def work(job: Mapping[str, Any], packages: Path | None = None) -> dict[str, Any]:
    """Have the worker do a job, in a process whose packages come from a folder first."""
    environment = {**os.environ, **({"PYTHONPATH": str(packages)} if packages else {})}
    command = [sys.executable, str(WORKER)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@dataclass(frozen=True)
class InPython:
    """A runtime that the worker runs.

    Attributes:
        runtime: As the worker calls it.
        file: What it loads from an artifact.
        packages: Where it is installed; None: with this Python.
    """

    runtime: str
    file: str
    packages: Callable[[], Path] | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.runtime} (Python)"

    def run(self, trial: Trial, rounds: int) -> Row:
        """Explain and measure one trial."""
        outputs = trial.artifact.parent / "outputs.npz"
        task = [str(trial.artifact / self.file), str(trial.inputs), str(outputs)]
        job: dict[str, Any] = {"runtime": self.runtime, "explain": [task]}
        if trial.forward:
            models = [str(folder / self.file) for folder in (trial.artifact, trial.forward)]
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


PLAIN = "forward.onnx"
"""What torch exports, for a benchmark that opens no artifact of it."""

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
        InPython("torchscript", "model.pt"),
        Program("torchscript (C++)", "libtorch", libtorch),
    ]


# -- the comparison --------------------------------------------------------------------------------------------


def batches(trial: Trial) -> Iterator[tuple[Any, Any]]:
    """Return a trial's batches: images and targets."""
    with np.load(trial.inputs) as found:
        for index in range(len(BATCHES)):
            yield found[f"image_{index}"], found[f"target_{index}"]


def compare(runtimes: Sequence[Any], folder: Path, quick: bool, rounds: int) -> Iterator[Row]:
    """Run every runtime on every trial."""
    for name, image, methods in MODELS[:QUICK] if quick else MODELS:
        for method in methods:
            trial = prepare(name, image, method, folder / f"{name}-{image}-{method}")
            for runtime in runtimes:
                try:
                    row = runtime.run(trial, rounds)
                except NotRun as error:
                    row = Row(runtime.name, "", name, image, method, reason=str(error))
                click.echo(line(row))
                yield row


def line(row: Row) -> str:
    """Say what came of one run."""
    head = f"{row.runtime} {row.version}".ljust(36) + f"{row.model} {row.image} {row.method}".ljust(34)
    if row.reason:
        return head + row.reason[:120]
    ratio = (
        "" if not (row.explained and row.forward) else f"  {row.explained:.2f} ms, {row.explained / row.forward:.2f}x"
    )
    return f"{head}{row.median:.1e} {row.worst:.1e}{ratio}"


def prepare(name: str, image: int, method: str, folder: Path) -> Trial:
    """Export an artifact, a forward-only one beside it, and ask live autograd."""
    import torch

    import exporter
    from exporter.reference import live
    from exporter.sources import resolve

    torch.set_num_threads(1)
    source = resolve(name, sample_shape=(3, image, image))
    artifact = exporter.export(source.model, source.sample_shape, folder / "artifact", method=method)
    generator = torch.Generator().manual_seed(1)
    arrays, expected, undecided = {}, [], []
    for index, size in enumerate(BATCHES):
        images = torch.randn(size, *source.sample_shape, generator=generator)
        target = torch.tensor([-1 if place % 2 == 0 else place for place in range(size)])
        arrays[f"image_{index}"], arrays[f"target_{index}"] = images.numpy(), target.numpy()
        _, (attribution,), counts = live(source.model, images, target, method)
        expected += list(attribution.numpy())
        undecided += counts.tolist()
    np.savez(folder / "inputs.npz", **arrays)
    forward = None
    if method == METHODS[0]:
        forward = folder / "forward"
        write_forward(source.model, images[:2], artifact.manifest, forward)
    return Trial(name, image, method, artifact.folder, forward, folder / "inputs.npz", expected, undecided)


def write_forward(model: Any, images: Any, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write an artifact that only predicts: what torch itself exports, with the image handed back as the attribution.

    So every program measures it through its own door, and what is compared is the work of explaining.
    """
    import onnx
    import torch

    from exporter.artifact import SEAL, describe, write_manifest

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.model(image), image

    folder.mkdir()
    sizes = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    program = torch.onnx.export(
        model, (images,), dynamo=True, dynamic_shapes=sizes, opset_version=18, verbose=False, **names
    )
    proto = program.model_proto
    onnx.save(proto, folder.parent / PLAIN)
    proto.ir_version = 8  # as old as its opset, so that the oldest runtime loads it
    proto.graph.input.append(onnx.helper.make_tensor_value_info("target", onnx.TensorProto.INT64, ["batch"]))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["image"], ["attribution"]))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("attribution", onnx.TensorProto.FLOAT, ["batch", *images.shape[1:]])
    )
    onnx.save(proto, folder / "model.onnx")
    traced = torch.jit.trace(Forward().eval(), (images, torch.zeros(len(images), dtype=torch.int64)))
    torch.jit.freeze(traced).save(folder / "model.pt")
    files = {"torchscript": describe(folder / "model.pt"), "onnx": describe(folder / "model.onnx")}
    write_manifest(folder, {**{key: value for key, value in manifest.items() if key != SEAL}, "files": files})


def judge(runtime: str, released: str, trial: Trial, found: Sequence[Any]) -> Row:
    """Hold what a runtime returned against live autograd."""
    errors = relative_l2([sample for batch in found for sample in batch], trial.expected)
    decided = [error for error, count in zip(errors, trial.undecided, strict=True) if count == 0]
    row = Row(runtime, released, trial.model, trial.image, trial.method, float(np.median(errors)), max(errors))
    return dataclasses.replace(row, decided=max(decided, default=None))


def relative_l2(found: Sequence[Any], expected: Sequence[Any]) -> list[float]:
    """Return ``|found - expected| / |expected|`` of each sample."""
    return [
        float(np.linalg.norm(np.ravel(one - other)) / np.linalg.norm(other))
        for one, other in zip(found, expected, strict=True)
    ]


# -- opsets ----------------------------------------------------------------------------------------------------


def opset_table(installed: Installed, folder: Path, quick: bool) -> Iterator[Opsets]:
    """Run every opset in every version."""
    written = write_opsets(folder / "opsets", OPSET_MODELS[:1] if quick else OPSET_MODELS)
    for wanted in (*VERSIONS, None):
        row = try_opsets(written, folder / "opsets", installed(wanted) if wanted else None)
        click.echo(f"onnxruntime {row.version}: opset {row.claims}, IR {row.ir}, {row.errors}")
        yield row


def write_opsets(folder: Path, networks: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Write networks with every opset; returns live autograd's attributions by network."""
    import torch

    from exporter.canonicalize import canonicalize
    from exporter.capture import capture
    from exporter.differentiate import differentiate
    from exporter.methods import METHODS as RULES
    from exporter.pipeline import write as write_file
    from exporter.reference import live
    from exporter.sources import resolve

    folder.mkdir()
    write_probes(folder)
    expected = {}
    for name, image in networks:
        source = resolve(name, sample_shape=(3, image, image))
        images = torch.randn(4, *source.sample_shape, generator=torch.Generator().manual_seed(2))
        target = torch.tensor([-1, 1, -1, 3])
        explicit = differentiate(canonicalize(capture(source.model, images)), RULES["guided"])
        for opset in OPSETS:
            write_file(explicit, "onnx", folder / f"{name}-{opset}.onnx", opset)
        np.savez(folder / f"{name}.npz", image_0=images.numpy(), target_0=target.numpy())
        expected[name] = live(source.model, images, target, "guided", count=False)[1][0].numpy()
    return expected


NEWER = 8
"""How many opsets and IR versions after the last that an export writes are asked for."""


def write_probes(folder: Path) -> None:
    """Write files of one operator that no opset changed, so that a version tells which stamps it takes."""
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "logits", "attribution")]
    nodes = [helper.make_node("Neg", ["x"], [name]) for name in ("logits", "attribution")]
    graph = helper.make_graph(nodes, "probe", values[:1], values[1:])
    for opset in range(OPSETS.start, OPSETS.stop + NEWER):
        for ir in range(8, 12 + NEWER):
            model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
            if ir == 8 or opset == OPSETS.start:
                save(model, folder / f"probe-{opset}-{ir}.onnx")
    np.savez(folder / "probe.npz")  # nothing to run: to be loaded is enough


def try_opsets(expected: Mapping[str, Any], folder: Path, packages: Path | None) -> Opsets:
    """Ask one version of onnxruntime what it takes, and run what was written.

    Args:
        expected: What :func:`write_opsets` returned.
        folder: Where it wrote.
        packages: Where the version is installed; None: with this Python.
    """
    probes = sorted(folder.glob("probe-*.onnx"))
    tasks = [[str(probe), str(folder / "probe.npz"), str(folder / "probe-out.npz")] for probe in probes]
    models = [(name, opset) for opset in OPSETS for name in expected]
    tasks += [
        [str(folder / f"{name}-{opset}.onnx"), str(folder / f"{name}.npz"), str(folder / f"out-{name}-{opset}.npz")]
        for name, opset in models
    ]
    answer = work({"runtime": "onnxruntime", "explain": tasks}, packages)
    reasons = answer["explain"]
    taken = [probe.stem.split("-") for probe, reason in zip(probes, reasons, strict=False) if not reason]
    claims = max(int(opset) for _, opset, _ in taken)
    errors: dict[str, float | str] = {}
    for (name, opset), reason in zip(models, reasons[len(probes) :], strict=True):
        if opset > claims:
            continue
        if reason:
            errors[str(opset)] = f"{name}: {reason}"
        elif not isinstance(errors.get(str(opset)), str):
            with np.load(folder / f"out-{name}-{opset}.npz") as found:
                worst = max(relative_l2(found["attribution_0"], expected[name]))
            errors[str(opset)] = max(worst, float(errors.get(str(opset), 0.0)))
    return Opsets(answer["version"], claims, max(int(ir) for _, _, ir in taken), errors)


# -- the report ------------------------------------------------------------------------------------------------


def disagreements(found: Mapping[str, Any]) -> list[str]:
    """Say which runtimes ran and are not close to live autograd."""
    rows = [Row(**row) for row in found["rows"]]
    ran = [row for row in rows if row.median is not None]
    return [line(row) for row in ran if not (row.median <= TOLERANCE and (row.decided or 0.0) <= TOLERANCE)]


def document(found: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    rows = [Row(**row) for row in found["rows"]]
    measured = [row for row in rows if row.method == METHODS[0]]
    parts = [
        "# Runtimes",
        INTRODUCTION.format(**found),
        "## Latency and size",
        LATENCY,
        _table(
            ["runtime", "version", "MiB", *dict.fromkeys(f"{row.model} {row.image}" for row in measured)],
            [_latencies(rows) for rows in _by_runtime(measured)],
        ),
        "## Parity",
        PARITY,
        *(_parity(method, [row for row in rows if row.method == method]) for method in METHODS),
    ]
    if found["opsets"]:
        parts += ["## Opsets", OPSETS_TEXT.format(oldest=OLDEST), _opsets([Opsets(**row) for row in found["opsets"]])]
    notes = dict.fromkeys(f"- {row.runtime}: {_cell(row.reason)}" for row in rows if row.reason)
    if notes:
        parts += ["## Not run", "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
The same artifacts in every runtime that the examples have, with Python {python} and torch {torch}, on one thread of
this processor: {processor}. Written by

```bash
{command}
```"""

LATENCY = """\
Median milliseconds of a call that predicts and explains one image, and in brackets how many times as long that is as
the same runtime's forward-only model takes: what `torch.onnx.export(dynamo=True)` writes of the network, or a traced
and frozen module. The two take turns, one call each, or for programs of their own one process each. *MiB* is the
runtime as it lies on the disk: the installed package without what it depends on; of a C++ program itself and the
libraries that it loads beside the system's; of onnxruntime-web what a page fetches of it."""

PARITY = """\
Relative L2 errors of the attribution against live autograd, median / worst of 6 random images in batches of 1 and 5,
half of them explained for the class predicted. In float32 an attribution is discontinuous where a rectifier's input is
within rounding of zero ([what the proof is](../README.md#what-the-proof-is)); a star marks an error above 1e-5 of a
sample in which rounding can flip such a comparison, so that it may differ as far as live autograd differs from itself.

A class that does not exist is an error in each of them but OpenVINO, which checks no index: there the caller must, as
[the example](../examples/openvino/README.md) does, which says what else OpenVINO does differently. Its rows are of the
example's settings."""

OPSETS_TEXT = """\
For each onnxruntime the last opset and IR version that it takes a file of, which it was asked with files of one
operator; and for each opset that an export can write (`--opset`) the worst relative L2 error of guided maps against
live autograd. {oldest} is the oldest that PyPI has for Python 3.11."""


def _by_runtime(rows: Sequence[Row]) -> list[list[Row]]:
    """Sort rows of one method into the table's lines, in the order of the first network's runtimes."""
    places = list(dict.fromkeys((row.model, row.image) for row in rows))
    columns = [[row for row in rows if (row.model, row.image) == place] for place in places]
    return [list(members) for members in zip(*columns, strict=True)]


def _latencies(rows: Sequence[Row]) -> list[str]:
    ran = [row for row in rows if not row.reason]
    cells = []
    for row in rows:
        if row.reason:
            cells.append("not run")
        elif row.explained is None or row.forward is None:
            cells.append("not measured")
        else:
            cells.append(f"{row.explained:.2f} ({row.explained / row.forward:.2f}x)")
    return [rows[0].runtime, ran[0].version if ran else "", f"{ran[0].mib:.0f}" if ran else "", *cells]


def _parity(method: str, rows: Sequence[Row]) -> str:
    head = [method, "version", *dict.fromkeys(f"{row.model} {row.image}" for row in rows)]
    body = []
    for members in _by_runtime(rows):
        cells = [_errors(row) for row in members]
        body.append([members[0].runtime, next((row.version for row in members if row.version), ""), *cells])
    return _table(head, body)


def _errors(row: Row) -> str:
    if row.median is None or row.worst is None:
        return "not run"
    star = "\\*" if row.worst > max(TOLERANCE, row.decided or 0.0) else ""
    return f"{row.median:.0e} / {row.worst:.0e}{star}"


def _opsets(rows: Sequence[Opsets]) -> str:
    body, notes = [], []
    for row in rows:
        cells = []
        for opset in OPSETS:
            error = row.errors.get(str(opset), "")
            if isinstance(error, str) and error:
                notes.append(f"{row.version}, opset {opset}: {_cell(error)}")
                error = f"fails [{len(notes)}]"
            cells.append(error if isinstance(error, str) else f"{error:.0e}")
        body.append([row.version, str(row.claims), str(row.ir), *cells])
    table = _table(["onnxruntime", "last opset", "last IR", *map(str, OPSETS)], body)
    return "\n\n".join([table, *(f"[{index}] {note}" for index, note in enumerate(notes, 1))])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
