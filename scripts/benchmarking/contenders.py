"""Who takes part: each loads what it needs once, and then answers one call with logits and, if it has it, a map."""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from exporter import cuda

Call = Callable[[], tuple[Any, Any]]
"""``() -> (logits, attribution)``; of a forward pass alone the attribution is None."""


class Unavailable(Exception):
    """A contender cannot take part; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What contenders are given.

    Attributes:
        model: A SPEC.
        shape: Of one image.
        batch: How many images.
        threads: How many each may use.
        device: ``cpu`` or ``cuda``.
        files: ``forward``, ``by-hand``, ``onnxruntime``, ``openvino`` and so on, ONNX files, and ``torchscript``.
        tf32: Whether a GPU may round what it multiplies in float32 to TF32, as is the default of all libraries here.
    """

    model: str
    shape: tuple[int, ...]
    batch: int
    threads: int
    device: str
    files: Mapping[str, Path]
    tf32: bool = True

    @cached_property
    def images(self) -> np.ndarray:
        """The same images for all."""
        return np.random.default_rng(0).standard_normal((self.batch, *self.shape), dtype=np.float32)

    @cached_property
    def target(self) -> np.ndarray:
        """The first class, which every network has: named and not predicted, for the peers cannot do without."""
        return np.zeros(self.batch, np.int64)

    @cached_property
    def tensors(self) -> tuple[Any, Any]:
        """Images and target as torch has them, on the device."""
        import torch

        return torch.from_numpy(self.images).to(self.device), torch.from_numpy(self.target).to(self.device)

    @cached_property
    def network(self) -> Any:
        """The network, frozen, on the device."""
        from scripts.benchmarking.networks import network

        return network(self.model, self.shape[-1])[0].to(self.device)

    @cached_property
    def hookable(self) -> Any:
        """The network with rectifiers that do not overwrite their input, for hooks do not go with those.

        It shares its weights with the network.
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        twin = copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors})
        for module in twin.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False
        return twin


@dataclass(frozen=True)
class Contender:
    """One way to a prediction, or to a prediction and its map.

    Attributes:
        name: In tables and records.
        needs: What it imports; memory is counted from there.
        open: Loads it.
    """

    name: str
    needs: tuple[str, ...]
    open: Callable[[Setting], Call]

    def absent(self) -> str:
        """Say which of what it needs does not import, or nothing."""
        for module in self.needs:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name == module.partition(".")[0]:
                    return f"{error.name} is not installed here"
                return f"{module} needs {error.name}, which is not installed here"
            except Exception as error:  # installed, but not whole: torchvision with another torch than its own
                return f"{module} does not import here: {str(error).strip().splitlines()[0]}"
        return ""


# -- onnxruntime -----------------------------------------------------------------------------------------------


def onnxruntime_session(path: Path, threads: int, **settings: Any) -> Any:
    """Load a file the way all its contenders do: default optimisations, one thread pool of a fixed size."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, _options(threads, **settings), providers=["CPUExecutionProvider"])


def _options(threads: int, **settings: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for name, value in settings.items():
        setattr(options, name, value)
    return options


def _onnxruntime(kind: str, **settings: Any) -> Callable[[Setting], Call]:
    def open(setting: Setting) -> Call:
        if setting.device == "cuda":
            return _on_cuda(setting, kind)
        session = onnxruntime_session(setting.files[kind], setting.threads, **settings)
        feed = _feed(setting, kind)

        def call() -> tuple[Any, Any]:
            found = session.run(None, feed)
            return found[0], (found[1] if len(found) > 1 else None)

        return call

    return open


def _feed(setting: Setting, kind: str) -> dict[str, np.ndarray]:
    """Return what a graph takes: the forward pass takes no target."""
    return {"image": setting.images} if kind == "forward" else {"image": setting.images, "target": setting.target}


def _on_cuda(setting: Setting, kind: str, graph: bool = False) -> Call:
    """Load a file on the GPU, with inputs and outputs that stay there, as torch's do."""
    import onnxruntime
    import torch  # CUDA's libraries come with it  # noqa: F401

    provider = cuda.PROVIDER
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"onnxruntime has no {provider} here; onnxruntime-gpu has")
    how = {"use_tf32": str(int(setting.tf32)), "enable_cuda_graph": str(int(graph))}
    session = onnxruntime.InferenceSession(
        setting.files[kind], _options(setting.threads), providers=[(provider, how)], enable_fallback=False
    )
    if session.get_providers()[0] != provider:  # it warns, and takes the CPU
        raise Unavailable(f"onnxruntime's {provider} does not start here")
    binding = session.io_binding()
    for name, array in _feed(setting, kind).items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    shapes = [(setting.batch, *output.shape[1:]) for output in session.get_outputs()]
    results = [onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0) for shape in shapes]
    for output, result in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(output.name, result)

    def call() -> tuple[Any, Any]:
        session.run_with_iobinding(binding)  # it waits for the GPU
        return results[0], (results[1] if len(results) > 1 else None)

    return call


# -- OpenVINO --------------------------------------------------------------------------------------------------


def _openvino(kind: str, file: str) -> Callable[[Setting], Call]:
    def open(setting: Setting) -> Call:
        import openvino

        core = openvino.Core()
        model = core.read_model(setting.files[file])
        feed = _feed(setting, kind)
        model.reshape({name: list(array.shape) for name, array in feed.items()})  # both graphs: sizes are then known
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setting.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()

        def call() -> tuple[Any, Any]:
            found = request.infer(feed, share_inputs=True, share_outputs=True)
            return found[0], (found[1] if len(found) > 1 else None)

        return call

    return open


# -- torch -----------------------------------------------------------------------------------------------------


def _waiting(launch: Callable[[Setting], Call]) -> Callable[[Setting], Call]:
    """Let calls of a contender, which only start the work of a GPU, wait for its end."""

    def open(setting: Setting) -> Call:
        call = launch(setting)
        if setting.device == "cpu":
            return call
        import torch

        def waiting() -> tuple[Any, Any]:
            found = call()
            torch.cuda.synchronize()
            return found

        return waiting

    return open


def _cuda_graph(launch: Callable[[Setting], Call]) -> Callable[[Setting], Call]:
    """Record what a contender has a GPU do, and let a call be its repetition, in which Python has no part."""

    def open(setting: Setting) -> Call:
        import torch

        call = launch(setting)  # which holds the weights that a recording only points to
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # a recording holds what is compiled and chosen by then
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = call()

        def replay(kept: Call = call) -> tuple[Any, Any]:
            graph.replay()
            return found

        return replay

    return open


def _eager(setting: Setting) -> Call:
    import torch

    network, (images, _) = setting.network, setting.tensors

    def call() -> tuple[Any, Any]:
        with torch.inference_mode():
            return network(images), None

    return call


def _traced(setting: Setting) -> Call:
    """Freeze a trace of the forward pass, as the artifact's module is frozen."""
    import torch

    images, _ = setting.tensors
    module = torch.jit.freeze(torch.jit.trace(setting.network, images))

    def call() -> tuple[Any, Any]:
        with torch.inference_mode():
            return module(images), None

    return call


def _torchscript(setting: Setting) -> Call:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has frozen the format, and says so
        module = torch.jit.load(str(setting.files["torchscript"]), map_location=setting.device)
        module = torch.jit.freeze(module)  # as examples/libtorch does
    images, target = setting.tensors

    def call() -> tuple[Any, Any]:
        with torch.inference_mode():
            logits, attribution = module(images, target)
        return logits, attribution

    return call


def _live(setting: Setting) -> Call:
    """Differentiate with guided functions in place of modules; functional rectifiers are left to the proofs' judge."""
    from exporter import reference
    from scripts.benchmarking.guided import guided, has_functional_rectifiers

    network, (images, target) = guided(setting.network), setting.tensors

    def call() -> tuple[Any, Any]:
        return differentiate(network, images, target)

    def judge() -> tuple[Any, Any]:
        logits, (attribution,), _ = reference.live(setting.network, images, target, "guided", count=False)
        return logits, attribution

    return judge if has_functional_rectifiers(network, images) else call


def differentiate(network: Any, images: Any, target: Any) -> tuple[Any, Any]:
    """Return the logits, and the gradient of each image's target by autograd."""
    import torch

    leaf = images.detach().requires_grad_()
    logits = network(leaf)
    (attribution,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), leaf)
    return logits.detach(), attribution


def _captum(channels_last: bool) -> Callable[[Setting], Call]:
    def open(setting: Setting) -> Call:
        import torch
        from captum.attr import GuidedBackprop

        (images, target), network = setting.tensors, setting.hookable
        if channels_last:
            network = copy.deepcopy(network).to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        method = GuidedBackprop(network)
        leaf = images.detach().clone().requires_grad_()

        def call() -> tuple[Any, Any]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says at each call that it sets hooks
                return None, method.attribute(leaf, target=target).detach()

        return call

    return open


def _grad_cam(setting: Setting) -> Call:
    import torch
    from pytorch_grad_cam import GuidedBackpropReLUModel

    if setting.device != "cpu":
        raise Unavailable("measured on the CPU only")
    images, _ = setting.tensors
    method = GuidedBackpropReLUModel(copy.deepcopy(setting.hookable), device=setting.device)

    def call() -> tuple[Any, Any]:
        # It explains the first image of what it is given, and nothing else: a batch is as many calls.
        maps = [method(images[i : i + 1].clone(), int(setting.target[i])) for i in range(len(images))]
        return None, torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2)

    return call


def compiled_autograd(setting: Setting, **how: Any) -> Call:
    """Let torch.compile have both passes of autograd, with guided functions in place of modules.

    Args:
        setting: What contenders are given.
        how: ``mode`` or ``backend`` of torch.compile.
    """
    import torch

    from scripts.benchmarking.guided import guided

    compiled = torch.compile(guided(setting.network), **how)
    images, target = setting.tensors

    def call() -> tuple[Any, Any]:
        return differentiate(compiled, images, target)

    return call


YARDSTICK = "onnxruntime: forward only"
ARTIFACT = "onnxruntime: artifact"
ARTIFACT_FINITE = "onnxruntime: artifact for finite values"
YARDSTICK_LEAN = "onnxruntime, no memory pattern: forward only"
ARTIFACT_LEAN = "onnxruntime, no memory pattern: artifact"
TORCHSCRIPT_YARDSTICK = "TorchScript: forward only"
TORCHSCRIPT = "TorchScript: artifact"
EAGER = "eager: forward only"
LIVE = "eager: guided autograd"
CAPTUM = "Captum GuidedBackprop"
CAPTUM_LAST = "Captum, channels last"
GRAD_CAM = "pytorch-grad-cam"
BY_HAND = "onnxruntime: graph written by hand"
OPENVINO_YARDSTICK = "OpenVINO: forward only"
OPENVINO = "OpenVINO: artifact"
COMPILED = "torch.compile of live autograd"
ARTIFACT_CUDA = "onnxruntime: artifact for CUDA"
YARDSTICK_GRAPH = "onnxruntime, CUDA graph: forward only"
ARTIFACT_CUDA_GRAPH = "onnxruntime, CUDA graph: artifact for CUDA"
EAGER_GRAPH = "eager, CUDA graph: forward only"
TORCHSCRIPT_GRAPH = "TorchScript, CUDA graph: artifact"
COMPILED_GRAPH = "torch.compile of live autograd, CUDA graphs"

OWN_YARDSTICK = {
    **dict.fromkeys((OPENVINO_YARDSTICK, OPENVINO), OPENVINO_YARDSTICK),
    **dict.fromkeys((YARDSTICK_LEAN, ARTIFACT_LEAN), YARDSTICK_LEAN),
}
"""Contender -> the forward pass that its memory is held against, where that is not :data:`YARDSTICK`."""

EVERYONE = {
    contender.name: contender
    for contender in (
        Contender(YARDSTICK, ("onnxruntime",), _onnxruntime("forward")),
        Contender(ARTIFACT, ("onnxruntime",), _onnxruntime("onnxruntime")),
        Contender(ARTIFACT_FINITE, ("onnxruntime",), _onnxruntime("onnxruntime-finite")),
        Contender(BY_HAND, ("onnxruntime",), _onnxruntime("by-hand")),
        Contender(YARDSTICK_LEAN, ("onnxruntime",), _onnxruntime("forward", enable_mem_pattern=False)),
        Contender(ARTIFACT_LEAN, ("onnxruntime",), _onnxruntime("onnxruntime", enable_mem_pattern=False)),
        Contender(OPENVINO_YARDSTICK, ("openvino",), _openvino("forward", "forward")),
        Contender(OPENVINO, ("openvino",), _openvino("artifact", "openvino")),
        Contender(EAGER, ("torch", "exporter.sources"), _waiting(_eager)),
        Contender(TORCHSCRIPT_YARDSTICK, ("torch", "exporter.sources"), _waiting(_traced)),
        Contender(TORCHSCRIPT, ("torch",), _waiting(_torchscript)),
        Contender(LIVE, ("torch", "exporter.sources", "exporter.reference"), _waiting(_live)),
        Contender(CAPTUM, ("torch", "exporter.sources", "captum.attr"), _waiting(_captum(False))),
        Contender(CAPTUM_LAST, ("torch", "exporter.sources", "captum.attr"), _waiting(_captum(True))),
        Contender(GRAD_CAM, ("torch", "exporter.sources", "torchvision", "pytorch_grad_cam"), _grad_cam),
        Contender(COMPILED, ("torch", "exporter.sources"), _waiting(compiled_autograd)),
        Contender(ARTIFACT_CUDA, ("onnxruntime",), _onnxruntime("cuda")),
        Contender(YARDSTICK_GRAPH, ("onnxruntime", "torch"), partial(_on_cuda, kind="forward", graph=True)),
        Contender(ARTIFACT_CUDA_GRAPH, ("onnxruntime", "torch"), partial(_on_cuda, kind="cuda", graph=True)),
        Contender(EAGER_GRAPH, ("torch", "exporter.sources"), _waiting(_cuda_graph(_eager))),
        Contender(TORCHSCRIPT_GRAPH, ("torch",), _waiting(_cuda_graph(_torchscript))),
        Contender(
            COMPILED_GRAPH, ("torch", "exporter.sources"), _waiting(partial(compiled_autograd, mode="reduce-overhead"))
        ),
    )
}

CUDA = (
    YARDSTICK,
    ARTIFACT_CUDA,
    YARDSTICK_GRAPH,
    ARTIFACT_CUDA_GRAPH,
    EAGER,
    TORCHSCRIPT,
    EAGER_GRAPH,
    TORCHSCRIPT_GRAPH,
    LIVE,
    COMPILED,
    COMPILED_GRAPH,
)
"""Those that take part on a GPU."""

TAKING_PART = {
    "speed": (
        YARDSTICK,
        ARTIFACT,
        ARTIFACT_LEAN,
        ARTIFACT_FINITE,
        OPENVINO_YARDSTICK,
        OPENVINO,
        EAGER,
        TORCHSCRIPT_YARDSTICK,
        TORCHSCRIPT,
        LIVE,
        CAPTUM,
        CAPTUM_LAST,
    ),
    "by-hand": (YARDSTICK, ARTIFACT, BY_HAND),
    "grad-cam": (YARDSTICK, CAPTUM, GRAD_CAM),
    "session": (
        YARDSTICK,
        ARTIFACT,
        ARTIFACT_FINITE,
        YARDSTICK_LEAN,
        ARTIFACT_LEAN,
        OPENVINO_YARDSTICK,
        OPENVINO,
        TORCHSCRIPT,
        EAGER,
        LIVE,
    ),
    "growth": (YARDSTICK, ARTIFACT, OPENVINO_YARDSTICK, OPENVINO),
    "cuda": CUDA,
    "cuda-float32": CUDA,
}
"""Part -> its contenders."""

KINDS = {
    YARDSTICK: "forward",
    ARTIFACT: "onnxruntime",
    ARTIFACT_FINITE: "onnxruntime-finite",
    BY_HAND: "by-hand",
    YARDSTICK_LEAN: "forward",
    ARTIFACT_LEAN: "onnxruntime",
    TORCHSCRIPT: "onnxruntime",
    OPENVINO_YARDSTICK: "forward",
    OPENVINO: "openvino",
    ARTIFACT_CUDA: "cuda",
    YARDSTICK_GRAPH: "forward",
    ARTIFACT_CUDA_GRAPH: "cuda",
    TORCHSCRIPT_GRAPH: "onnxruntime",
}
"""Contender -> the kind of files that must be made for it."""


@contextlib.contextmanager
def quiet() -> Any:
    """Keep warnings of libraries out of the report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def difference(found: Any, expected: Any) -> float:
    """Return the median over a batch of the relative L2 distance of maps, ``[N, ...]``."""
    found, expected = (np.asarray(array, dtype=np.float64).reshape(len(array), -1) for array in (found, expected))
    scale = np.linalg.norm(expected, axis=1)
    return float(np.median(np.linalg.norm(found - expected, axis=1) / np.where(scale == 0, 1, scale)))
