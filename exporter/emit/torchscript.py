"""Emit TorchScript: the explicit module, scripted. Nothing is traced, so sizes stay symbolic."""

from __future__ import annotations

import io
import operator
import re
import warnings
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import fx, nn

from exporter.program import Program, to_module
from exporter.sizes import is_one

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv2d, aten.conv_transpose2d)
"""Operators whose CPU kernels are faster where channels are last."""

LAST_ON_CPU = (aten.native_group_norm,)
"""Operators that take an image with channels last on a CPU only."""

_CLASS = re.compile(rb"__torch__\.torch\.(fx\.graph_module|nn\.modules\.module)(\.___torch_mangle_\d+)?(?=[.\n])")
"""The qualifier of a class, as code and pickles write it."""

_VERSIONS = ("version", ".data/version")
"""Where the version of the format stands: PyTorch keeps it in another place from 6 on."""

_WRITERS_OWN = (*_VERSIONS, ".data/serialization_id")
"""Records that the writer adds by itself."""


def emit(program: Program, path: Path) -> None:
    """Write a program as a TorchScript file that any libtorch loads without this package.

    Raises:
        OSError: The file cannot be written whole.
    """
    with warnings.catch_warnings():
        # The format is frozen, not broken; and the annotations warned of are in fx.GraphModule's constructor.
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*deprecated")
        warnings.filterwarnings("ignore", message=".*instance-level annotations", category=UserWarning)
        scripted = torch.jit.script(_laid_out(to_module(program)).eval())
    _write_reproducibly(scripted.save_to_buffer(), path)


def _laid_out(module: fx.GraphModule) -> nn.Module:
    """Let convolutions, and what lies between them, read and write images with channels last; outputs lie plainly.

    The same operators on the same values; only where a value lies in memory changes, and views of such images become
    reshapes. CPU kernels prefer it: beside channels first, a max-pool takes a fifteenth of the time, a vgg16 7 % less,
    a resnet18 10 % less for eight images, medians of interleaved runs.
    """
    graph = module.graph
    convolutions = [node for node in graph.nodes if node.target in CONVOLUTIONS]
    for node in convolutions:
        image, weight, *rest = node.args
        if image.target not in CONVOLUTIONS:
            with graph.inserting_before(node):
                image = _contiguous(graph, image, torch.channels_last)
        node.args = (image, weight, *rest)
        if weight.op == "get_attr":
            path, _, name = weight.target.rpartition(".")
            owner = module.get_submodule(path)
            owner.register_buffer(name, owner.get_buffer(name).contiguous(memory_format=torch.channels_last))
    for node in graph.nodes if convolutions else ():
        if node.target in LAST_ON_CPU and node.args[0].meta["val"].ndim == 4:
            thin = any(map(is_one, node.args[0].meta["val"].shape[2:]))  # in either order; kernels disagree in which
            with graph.inserting_before(node):
                image = _copy(graph, node.args[0]) if thin else _last_on_cpu(graph, node.args[0])
                node.args = (image, *node.args[1:])
    for node in graph.nodes:
        if node.target is aten.view and convolutions:
            node.target = aten.reshape
        if node.target is aten.contiguous and convolutions and not node.kwargs and node.meta["val"].ndim == 4:
            node.kwargs = {"memory_format": torch.channels_last}
        if node.op == "output":
            with graph.inserting_before(node):
                node.args = (tuple(_contiguous(graph, value, torch.contiguous_format) for value in node.args[0]),)
    module.recompile()
    return module


def _contiguous(graph: fx.Graph, value: fx.Node, order: torch.memory_format) -> fx.Node:
    return graph.call_function(aten.contiguous, (value,), {"memory_format": order})


def _copy(graph: fx.Graph, image: fx.Node) -> fx.Node:
    return graph.call_function(aten.clone, (image,), {"memory_format": torch.contiguous_format})


def _last_on_cpu(graph: fx.Graph, image: fx.Node) -> fx.Node:
    """Let an image have its channels last where it is on a CPU; TorchScript's numbers are 2 for that and 0 for not.

    On a CPU a resnet50_gn takes 0.99 and 1.00 times the time of before, batch 1 and 8, medians of interleaved runs.
    """
    on_cpu = graph.call_function(int, (graph.call_function(getattr, (image, "is_cpu")),))
    return graph.call_function(
        aten.contiguous, (image,), {"memory_format": graph.call_function(operator.mul, (on_cpu, 2))}
    )


def _write_reproducibly(archive: bytes, path: Path) -> None:
    """Write a TorchScript archive without what depends on the process that made it.

    TorchScript numbers classes in the order in which a process meets them, ``___torch_mangle_3``, and its debug records
    name the module's generated source by another such count. Classes are numbered anew, in the order in which this
    archive names them; debug records, which map lines of the code to lines of that source, are left out.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    records = reader.get_all_records()
    version = next(int(reader.get_record(name)) for name in _VERSIONS if name in records)
    qualifiers = dict.fromkeys(match.group() for match in _CLASS.finditer(reader.get_record("data.pkl")))
    renamed = {
        old: b"%s.___torch_mangle_%d" % (old.partition(b".___torch_mangle_")[0], index)
        for index, old in enumerate(qualifiers)
    }
    files = {_file(old): _file(new) for old, new in renamed.items()}
    with path.open("wb") as file:
        careful = _Careful(file)
        writer = torch._C.PyTorchFileWriter(cast("IO[bytes]", careful))
        writer.set_min_version(version)
        for name in records:
            if name in _WRITERS_OWN or name.endswith(".debug_pkl"):
                continue
            record = reader.get_record(name)
            if name in files or name == "data.pkl":
                record = _CLASS.sub(lambda match: renamed[match.group()], record)
            writer.write_record(files.get(name, name), record, len(record))
        writer.write_end_of_file()
        careful.check()


class _Careful:
    """A file for libtorch's writer, which ends the process when a write fails: keeps the error until it is asked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write what libtorch has, unless an earlier write has failed."""
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def check(self) -> None:
        """Raise the first error, or that of what is written last."""
        if self._error is not None:
            raise self._error
        self._file.flush()


def _file(qualifier: bytes) -> str:
    return f"code/{qualifier.decode().replace('.', '/')}.py"
