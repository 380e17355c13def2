"""Wrong uses, one by one: exit status 2, one message that says what and where, and nothing written or lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import exporter
from tests.command import NETS, run, snapshot

ROOT = Path(__file__).parent.parent


def line_of(text: str) -> int:
    """Return the number of the line of ``NETS`` that holds a text."""
    return next(number for number, line in enumerate(NETS.splitlines(), 1) if text in line)


def net(name: str, shape: str = "4", *more: str) -> tuple[str, ...]:
    return ("--model", f"nets.py:{name}", "--input-shape", shape, *more)


def args(model: str, arguments: str) -> tuple[str, ...]:
    return ("--model", model, "--model-args", arguments)


TINY = net("tiny")


def weights(file: str, model: tuple[str, ...] = TINY) -> tuple[str, ...]:
    return (*model, "--weights", file)


OPTIONS = {
    "no model": ((), r"Missing option '--model'"),
    "an unknown option": (("--model", "mlp", "--colour", "red"), r"No such option"),
    "an argument too many": (("--model", "mlp", "resnet18"), r"unexpected extra argument \(resnet18\)"),
    "an option without its value": (("--model",), r"Option '--model' requires an argument"),
    "an unknown method": (("--model", "mlp", "--method", "lrp"), r"'lrp' is not one of 'guided', 'gradient'"),
    "an unknown format": (("--model", "mlp", "--format", "tflite"), r"unknown format 'tflite'; there are torchscript"),
    "one unknown format": (("--model", "mlp", "--format", "onnx,tflite"), r"unknown format 'tflite'"),
    "an empty format": (("--model", "mlp", "--format", ""), r"unknown format ''"),
    "an old opset": (("--model", "mlp", "--opset", "11"), r"11 is not in the range 17<=x<=23"),
    "a future opset": (("--model", "mlp", "--opset", "99"), r"99 is not in the range"),
    "an unknown runtime to optimize for": (
        ("--model", "mlp", "--optimize-for", "tensorrt"),
        r"'tensorrt' is not one of",
    ),
    "an opset of words": (("--model", "mlp", "--opset", "latest"), r"'latest' is not a valid integer"),
    "a negative seed": (("--model", "mlp", "--seed", "-1"), r"-1 is not in the range 0<=x<="),
    "a shape of words": (("--model", "mlp", "--input-shape", "3x224x224"), r"'3x224x224' is not a shape; .*3,224,224"),
    "a shape with a fraction": (("--model", "mlp", "--input-shape", "3,2.5,4"), r"'3,2.5,4' is not a shape"),
    "a shape with a gap": (("--model", "mlp", "--input-shape", "3,,4"), r"'3,,4' is not a shape"),
    "a shape with a zero": (("--model", "mlp", "--input-shape", "3,0,4"), r"has a size below 1; leave out the batch"),
    "a shape with a batch of -1": (("--model", "mlp", "--input-shape", "-1,3,4,4"), r"has a size below 1"),
    "an empty shape": (("--model", "mlp", "--input-shape", ""), r"'' is not a shape"),
    "an input without a shape": (
        ("--model", "mlp", "--input", "left"),
        r"'left' is not NAME:SHAPE or NAME:SHAPE:DTYPE",
    ),
    "an input without a size": (("--model", "mlp", "--input", "left:"), r"'' is not a shape"),
    "an input of another dtype": (
        ("--model", "mlp", "--input", "left:4:float64"),
        r"has no dtype 'float64'; there are int64, int32, uint8, bool; --dtype sets floats",
    ),
    "two inputs of a name": (
        ("--model", "mlp", "--input", "x:4", "--input", "x:4"),
        r"two inputs are named 'x'",
    ),
    "an input with a reserved name": (("--model", "mlp", "--input", "target:4"), r"cannot be named 'target'"),
    "an input with a name that is none": (("--model", "mlp", "--input", "a b:4"), r"cannot be named 'a b'"),
    "inputs of whole numbers only": (("--model", "mlp", "--input", "ids:4:int64"), r"no input is of floating point"),
    "an input and an input shape": (
        ("--model", "mlp", "--input", "x:4", "--input-shape", "4"),
        r"--input-shape is for a network of one input",
    ),
    "an unknown dynamic size": (
        ("--model", "mlp", "--dynamic", "batch,time"),
        r"unknown size 'time'; there are batch, length, steps, depth, height, width",
    ),
    "a batch that does not vary": (("--model", "mlp", "--dynamic", "height"), r"the batch is always dynamic"),
    "a height that the network has not": (
        ("--model", "mlp", "--input-shape", "784", "--dynamic", "batch,height"),
        r"--dynamic height: no input has one\. .* height and width are those of an image \[N, C, H, W\]",
    ),
    "a dtype that no artifact has": (
        ("--model", "mlp", "--dtype", "bfloat16"),
        r"'bfloat16' is not one of 'float32', 'float64'",
    ),
    "arguments that are not JSON": (args("mlp", "num_classes=10"), r"'num_classes=10' is not JSON .*\"num_classes\""),
    "arguments that are a list": (args("mlp", "[10]"), r"'\[10\]' is not a JSON object"),
    "arguments that are a number": (args("mlp", "10"), r"'10' is not a JSON object"),
    "empty arguments": (args("mlp", ""), r"'' is not JSON"),
}

MODELS = {
    "an unknown model": (("--model", "resnet19"), r"'resnet19' is not in the zoo. Did you mean .*resnet18"),
    "a far-off model": (("--model", "zzz"), r"'zzz' is not in the zoo. The zoo has .*resnet18.*torchvision:NAME"),
    "an empty model": (("--model", ""), r"'' is not in the zoo"),
    "a library without a name": (
        ("--model", "torchvision:"),
        r"'torchvision:': name the network too, for example torchvision:r",
    ),
    "a library that is not installed": (
        ("--model", "torchvision:resnet18"),
        r"needs torchvision, which is not installed: pip install 'saliport\[torchvision\]'",
    ),
    "another library that is not installed": (("--model", "timm:resnet18"), r"pip install 'saliport\[timm\]'"),
    "a misspelled library": (("--model", "tim:resnet18"), r"there is no module 'tim' .*Did you mean timm\?"),
    "a missing file": (("--model", "gone.py:net"), r"there is no Python file gone.py"),
    "a file name that is too long": (("--model", f"{'x' * 300}.py:net"), r"there is no Python file x+\.py"),
    "a folder in place of a file": (("--model", "mine.py:net"), r"there is no Python file mine.py"),
    "a file without a factory": (("--model", "nets.py"), r"name the factory too, path/to/file.py:factory"),
    "a file and a colon": (("--model", "nets.py:"), r"name the factory too"),
    "a factory without a file": (("--model", ":tiny"), r"name the factory too"),
    "a file of another kind": (("--model", "mine/a.txt:net"), r"mine/a.txt is neither a Python file \(.py\) nor"),
    "an unknown factory": (("--model", "nets.py:tinny"), r"nets.py defines no 'tinny'; did you mean tiny"),
    "a missing module": (
        ("--model", "shop.gone:net"),
        r"there is no module 'shop.gone' in the current folder or among the installed packages",
    ),
    "a missing package": (("--model", "no_such_shop.nets:net"), r"there is no module 'no_such_shop' in the current"),
    "an unknown factory in a module": (("--model", "shop.nets:nett"), r"shop.nets defines no 'nett'; did you mean net"),
    "a module that does not import": (
        ("--model", "shop.broken:net"),
        r"shop.broken cannot be imported: ModuleNotFoundError: .*no_such_package.*broken.py:1\)",
    ),
    "a module that quits": (
        ("--model", "shop.quits:net"),
        r"shop.quits cannot be imported: SystemExit: 0 .*quits.py:2",
    ),
    "a syntax error": (("--model", "broken.py:net"), r"broken.py cannot be imported: SyntaxError.*line 1"),
    "bytes that are not Python": (("--model", "binary.py:net"), r"binary.py cannot be imported: SyntaxError"),
    "an import error": (
        ("--model", "imports.py:net"),
        r"imports.py cannot be imported: ModuleNotFoundError.*imports.py:1\)",
    ),
    "a file that quits": (("--model", "quits.py:net"), r"quits.py cannot be imported: SystemExit: 0 \(.*quits.py:1\)"),
}

FACTORIES = {
    "a factory that needs an argument": (
        net("needs"),
        r"needs\(width\): missing a required argument: 'width'; pass it as --model-args",
    ),
    "a misspelled argument": (
        args("nets.py:takes", '{"numclasses": 3}'),
        r"takes\(num_classes, \*, depth=2\): takes no 'numclasses' from --model-args. Did you mean num_classes\?",
    ),
    "an argument that is no name": (args("nets.py:positional", '{"width": 3}'), r"positional\(width, /\): takes no"),
    "an argument that the zoo does not take": (
        args("mlp", '{"colour": 1}'),
        r"mlp\(num_classes=10, inputs=784, .*\): takes no 'colour'",
    ),
    "an argument of another type": (
        args("nets.py:takes", '{"num_classes": "ten"}'),
        r"takes\(num_classes='ten'\) raised TypeError: .*nets.py:\d+\). Check --model-args",
    ),
    "an argument out of range": (args("nets.py:takes", '{"num_classes": -1}'), r"num_classes=-1\) raised RuntimeError"),
    "a factory that raises": (
        net("raises"),
        rf"raises\(\) raised TypeError: .*nets.py:{line_of('nn.Linear(-1')}\)$",
    ),
    "a factory that asserts": (net("asserts"), r"asserts\(\) raised AssertionError: no message \(.*nets.py:\d+\)"),
    "a factory that exits": (net("exits"), rf"exits\(\) raised SystemExit: 7 \(.*nets.py:{line_of('SystemExit(7)')}\)"),
    "a factory that returns a list": (net("returns_a_list"), r"returns_a_list\(\) returned list, not an nn.Module"),
    "a factory that returns nothing": (net("nothing"), r"nothing\(\) returned NoneType, not an nn.Module"),
    "a factory that returns a class": (net("a_class"), r"a_class\(\) returned type, not an nn.Module"),
    "a factory that is a number": (net("number"), r"number is a int, not a callable"),
    "a factory that is a network": (net("network"), r"that is a network already; name a function that returns it"),
    "a factory of NaN": (net("not_a_number"), r"the network that nets.py:not_a_number makes holds NaN .* in 1.weight"),
    "a factory of infinity": (net("infinite_statistics"), r"holds NaN or infinity in 0.running_var"),
    "a network without values": (net("on_meta"), r"has no values in weight, bias: on the meta device"),
    "a lazy network": (net("lazy"), r"has no values in weight, bias: .*a lazy layer that has not run yet"),
    "a lazy network with weights": (weights("good.pt", net("lazy")), r"has no values in weight, bias"),
    "a float64 network": (
        net("double"),
        r"1.weight is torch.float64, and the artifact would be float32; .* ask for --dtype float64",
    ),
    "a float16 network": (
        net("half"),
        r"1.weight is torch.float16, and the artifact would be float32; .* --dtype float16",
    ),
}

WEIGHTS = {
    "missing weights": (weights("gone.pt"), r"--weights gone.pt: there is no such file$"),
    "the name of weights": (weights("DEFAULT"), r"there is no such file, and nets.py:tiny has no weights by name$"),
    "weights with a name that is too long": (weights("x" * 300), r"--weights x+: there is no such file"),
    "a folder as weights": (weights("mine"), r"--weights mine: is not a file"),
    "empty weights": (weights("empty.pt"), r"--weights empty.pt: cannot be read, it is damaged or no PyTorch file"),
    "truncated weights": (weights("half.pt"), r"--weights half.pt: cannot be read"),
    "truncated weights, old format": (weights("half_legacy.pt"), r"--weights half_legacy.pt: cannot be read"),
    "weights with a changed byte": (weights("flipped.pt"), r"--weights flipped.pt: cannot be read"),
    "weights that are text": (weights("nets.py"), r"--weights nets.py: cannot be read"),
    "weights that are a web page": (weights("page.pt"), r"--weights page.pt: cannot be read"),
    "weights that are zeros": (weights("zeros.pt"), r"--weights zeros.pt: cannot be read"),
    "another archive as weights": (weights("archive.pt"), r"--weights archive.pt: cannot be read"),
    "safetensors by another name": (weights("safetensors.pt"), r"--weights safetensors.pt: cannot be read"),
    "TorchScript as weights": (weights("script.pt"), r"is a TorchScript program, not a state dict"),
    "weights that run code": (
        weights("evil.pt"),
        r"--weights evil.pt: refused, it holds more than plain tensors \(\w+.system\) and would run code",
    ),
    "weights that run code, old format": (weights("evil_legacy.pt"), r"evil_legacy.pt: refused, .*\.system\)"),
    "a bare pickle that runs code": (weights("evil.pkl"), r"evil.pkl: (refused, .*\.system|cannot be read)"),
    "a wrapper that runs code": (weights("evil_nested.pt"), r"evil_nested.pt: refused, .*\.system\)"),
    "a whole model as weights": (weights("whole.pt"), r"refused.*\(torch.nn.*Linear\).*Save model.state_dict\(\)"),
    "a list as weights": (weights("list.pt"), r"holds a list, not a state dict"),
    "a tensor as weights": (weights("tensor.pt"), r"holds a Tensor, not a state dict"),
    "numbers as weights": (weights("numbers.pt"), r"numbers.pt: not a state dict, 'epoch' is no tensor"),
    "no weights at all": (weights("nothing.pt"), r"nothing.pt: not a state dict, it holds no tensors"),
    "keys that are numbers": (weights("keys.pt"), r"keys.pt: not a state dict, 3 is no tensor"),
    "sparse weights": (weights("sparse.pt"), r"sparse.pt: not a state dict, '1.weight' is no tensor of plain numbers"),
    "complex weights": (weights("complex.pt"), r"complex.pt: not a state dict, '1.weight' is no tensor of plain"),
    "quantised weights": (weights("quantised.pt"), r"quantised.pt: not a state dict, '1.weight' is no tensor"),
    "weights without values": (weights("meta.pt"), r"meta.pt: not a state dict, '1.weight' is no tensor of plain"),
    "whole numbers as weights": (
        weights("whole_numbers.pt"),
        r"1 of another kind of number: 1.weight whole for floating-point. Likely cause: .*quantised",
    ),
    "weights with NaN": (weights("nan.pt"), r"nan.pt holds NaN or infinity in 1.bias"),
    "weights with infinity": (weights("inf.pt"), r"inf.pt holds NaN or infinity in 1.weight, 1.bias, 3.weight, … \(4"),
    "weights too large for float32": (weights("large.pt"), r"large.pt holds NaN or infinity in 3.bias"),
    "weights of another network": (
        weights("other.pt"),
        r"other.pt does not fit Sequential: 4 missing: 1.weight, 1.bias, 3.weight, …; 1 unexpected: a. "
        r"Likely cause: the file is of another architecture",
    ),
    "weights for a network without any": (
        weights("good.pt", net("Sequence")),
        r"4 unexpected: 1.weight, .*Likely cause: the network has no weights at all",
    ),
    "weights of other classes": (
        weights("classes.pt"),
        r"2 wrongly shaped: 3.weight \[2, 5\] for \[3, 5\], 3.bias \[2\] for \[3\]. Likely cause: another number of "
        r"classes, 2 in the file and 3 in the network. Pass --model-args '\{\"num_classes\": 2\}'",
    ),
}

SAFETENSORS = {
    "missing safetensors": (weights("gone.safetensors"), r"--weights gone.safetensors: there is no such file"),
    "empty safetensors": (weights("empty.safetensors"), r"no safetensors file \(header too small\)"),
    "a truncated header": (
        weights("half_header.safetensors"),
        r"half_header.safetensors: cannot be read, it is damaged",
    ),
    "truncated values": (weights("half.safetensors"), r"incomplete metadata, file not fully covered"),
    "values too many": (weights("longer.safetensors"), r"incomplete metadata, file not fully covered"),
    "a header length too large": (weights("huge_header.safetensors"), r"header too large"),
    "a header length past the end": (weights("long_header.safetensors"), r"\(invalid"),
    "a header length too small": (weights("short_header.safetensors"), r"\(invalid JSON in header"),
    "a header that is no JSON": (weights("words.safetensors"), r"\(invalid JSON in header"),
    "an unknown dtype": (weights("dtype.safetensors"), r"unknown variant `Q99`"),
    "a shape that the values do not fill": (weights("shape.safetensors"), r"invalid shape, data type, or offset"),
    "a negative size": (weights("negative.safetensors"), r"invalid value: integer `-4`"),
    "values that overlap": (weights("overlap.safetensors"), r"invalid offset for tensor"),
    "a pickle in disguise": (weights("evil.safetensors"), r"evil.safetensors: cannot be read"),
    "no tensors": (weights("metadata.safetensors"), r"metadata.safetensors: not a state dict, it holds no tensors"),
    "eight bits": (weights("float8.safetensors"), r"float8.safetensors: not a state dict, '1.weight' is no tensor"),
    "other names": (
        weights("names.safetensors"),
        r"4 missing: .*; 4 unexpected: first.bias, .*other names for its layers",
    ),
    "NaN in safetensors": (weights("nan.safetensors"), r"nan.safetensors holds NaN or infinity in 1.bias"),
}

NETWORKS = {
    "a shape that does not fit": (
        ("--model", "cifar_resnet20", "--input-shape", "1,32,32"),
        r"CifarResNet does not run on an input of shape \(1, 1, 32, 32\).*Check --input-shape",
    ),
    "wrong channels": (
        net("Convolves", "4,8,8"),
        r"Convolves does not run on .*\(1, 4, 8, 8\).*3 channels.*--input-shape",
    ),
    "a wrong image size": (net("Convolves", "3,9,9"), r"Convolves does not run on an input of shape \(1, 3, 9, 9\)"),
    "too few sizes": (net("Convolves", "3"), r"Convolves does not run on an input of shape \(1, 3\)"),
    "a network that raises": (net("Raises"), r"Raises does not run on .*: no forward yet"),
    "a network that exits": (net("Leaves"), r"the network's code ended the process, sys.exit\(0\)"),
    "a branch on data": (
        net("Branch"),
        rf"control flow of Branch depends on the data.*nets.py:{line_of('if x.sum() > 0')}\b.*torch.where",
    ),
    "a loop on data": (
        net("Loops"),
        rf"control flow of Loops depends on the data.*nets.py:{line_of('while x.abs')}\b",
    ),
    "an unsupported operator": (
        net("Unknown"),
        rf"aten.special_bessel_j0.default has no vjp rule \(inner, .*nets.py:{line_of('bessel')}\).*exporter/rules",
    ),
    "a missing output key": (
        (*net("Dict"), "--output-key", "logits"),
        r"Dict returns nothing at --output-key 'logits'. Pick the logits with --output-key out",
    ),
    "a key of an output that is one tensor": (
        (*net("tiny"), "--output-key", "0"),
        r"returns nothing at --output-key '0'. What it returns is one tensor",
    ),
    "an image size that the network fixes": (
        (*net("Convolves", "3,8,8"), "--dynamic", "batch,height"),
        r"--dynamic height: what was captured .* is for a height of 8 only; at 9 it raises: mat1 .*nets.py:\d+\)",
    ),
    "a tuple": (
        net("Tuple"),
        r"Tuple returns tuple, not a tensor of logits .* Pick the logits with --output-key 0 or 1",
    ),
    "a dict": (net("Dict"), r"Dict returns dict, not a tensor of logits .* --output-key out"),
    "nothing": (net("Nothing"), r"Nothing returns NoneType, not a tensor of logits"),
    "a sequence": (
        net("Sequence", "3,4,4"),
        r"Sequence returns a tensor of shape \(1, 3, 16\).*logits \[N, K\].*take .mean\(-1\) or .sum\(-1\) of scores",
    ),
    "one number per input": (
        net("Vector"),
        r"Vector returns a tensor of shape \(1,\).*logits \[N, K\].*; a binary score needs unsqueeze\(1\)",
    ),
    "a batch of one that is dropped": (
        net("Squeezes"),
        r"Squeezes returns a tensor of shape \(4,\).*: squeeze\(\) drops a batch of one, name its dimension\.$",
    ),
    "a batch of one score that is dropped": (
        net("SqueezesScore"),
        r"of shape \(\).*drops a batch of one, name its dimension; a binary score needs unsqueeze\(1\)",
    ),
    "a packed sequence": (
        net("Packs", "5,4"),
        rf"pack_padded_sequence \(.*nets.py:{line_of('packed = ')}\) leaves out .*: give padded sequences .* whole",
    ),
    "an assertion on data": (
        net("Asserts"),
        rf"control flow of Asserts depends on the data \(.*nets.py:{line_of('torch.isnan(')}\).*Remove the assertion",
    ),
    "a fraction of the batch": (
        net("Windows"),
        rf"fixed batch size only.*nets.py:{line_of('batch = int(')}\).*write a // b for int\(a / b\)",
    ),
    "one number": (net("Scalar"), r"Scalar returns a tensor of shape \(\).*logits \[N, K\]"),
    "no classes": (net("NoClasses"), r"NoClasses returns a tensor of shape \(1, 0\)"),
    "a constant": (net("Constant"), r"no way from the logits to the image: the forward pass leaves it out"),
    "a part without gradients": (net("FrozenPart"), r"no way from the logits to the image: .*torch.no_grad\(\)"),
    "whole numbers in between": (net("Rounds"), r"no way from the logits to the image: .*a derivative of zero"),
    "logits that are not finite": (net("NotFinite"), r"NotFinite returns NaN or infinity"),
    "a pinned batch": (net("Pinned"), r"Pinned works with a fixed batch size only"),
    "a batch that is mixed": (net("Mixes"), r"the logits of Mixes for one input depend on the other inputs"),
    "batch norm in training mode": (
        net("trained"),
        r"Sequential runs on two inputs but not on one: Expected more than 1 value per channel when training",
    ),
    "batch norm of images in training mode": (net("AlwaysTraining", "3,4,4"), r"AlwaysTraining (returns|.*depend)"),
    "dropout in eval mode": (net("Random"), r"Random returns other logits for the same input each time"),
}

OUTPUTS = {
    "a file as output": ((*TINY, "--output", "nets.py"), r"--output nets.py is not a folder"),
    "a link as output": ((*TINY, "--output", "link"), r"--output link is not a folder"),
    "the current folder": ((*TINY, "--output", "."), r"--output . holds other files"),
    "a folder with other files": (
        (*TINY, "--output", "mine"),
        r"--output mine holds other files \(a.txt, b.txt, c.txt, …\)",
    ),
    "a folder with a file of our name": (
        (*TINY, "--output", "named"),
        r"--output named holds other files \(model.pt\)",
    ),
    "an output below a file": ((*TINY, "--output", "nets.py/out"), r"lies below .*nets.py, which is not a folder"),
    "a name that is too long": ((*TINY, "--output", "x" * 300), r"cannot be written: File name too long"),
}

WRONG = {**OPTIONS, **MODELS, **FACTORIES, **WEIGHTS, **SAFETENSORS, **NETWORKS, **OUTPUTS}


class Evil:
    """A pickle of it runs a command when it is loaded, and leaves a file behind."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


GOOD = {
    "1.weight": torch.ones(5, 4),
    "1.bias": torch.ones(5),
    "3.weight": torch.ones(3, 5),
    "3.bias": torch.ones(3),
}
"""A state dict of ``tiny``."""


def write_pickles() -> None:
    torch.save(GOOD, "good.pt")
    whole = Path("good.pt").read_bytes()
    torch.save(GOOD, "legacy.pt", _use_new_zipfile_serialization=False)
    Path("half_legacy.pt").write_bytes(Path("legacy.pt").read_bytes()[:-40])
    Path("half.pt").write_bytes(whole[: len(whole) // 2])
    at = whole.index(b"1.weight")
    Path("flipped.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
    Path("empty.pt").write_bytes(b"")
    Path("page.pt").write_text("<!doctype html><title>404</title>")
    Path("zeros.pt").write_bytes(bytes(4096))
    Path("archive.pt").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty zip
    torch.save({"x": Evil()}, "evil.pt")
    torch.save({"x": Evil()}, "evil_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": GOOD, "model": Evil()}, "evil_nested.pt")
    Path("evil.pkl").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.nn.Linear(2, 2), "whole.pt")
    torch.save([torch.ones(2)], "list.pt")
    torch.save(torch.ones(2), "tensor.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    torch.save({}, "nothing.pt")
    torch.save({"a": torch.ones(1)}, "other.pt")
    torch.save({3: torch.ones(1)}, "keys.pt")
    torch.save({**GOOD, "3.weight": torch.ones(2, 5), "3.bias": torch.ones(2)}, "classes.pt")
    torch.save({**GOOD, "1.bias": torch.full((5,), torch.nan)}, "nan.pt")
    torch.save({key: value * torch.inf for key, value in GOOD.items()}, "inf.pt")
    torch.save({**GOOD, "3.bias": torch.full((3,), 1e300, dtype=torch.float64)}, "large.pt")
    torch.save({**GOOD, "1.weight": GOOD["1.weight"].to_sparse()}, "sparse.pt")
    torch.save({**GOOD, "1.weight": GOOD["1.weight"].to(torch.complex64)}, "complex.pt")
    torch.save({**GOOD, "1.weight": GOOD["1.weight"].to(torch.int8)}, "whole_numbers.pt")
    torch.save({**GOOD, "1.weight": GOOD["1.weight"].to("meta")}, "meta.pt")
    with warnings.catch_warnings(action="ignore"):  # PyTorch gives such tensors up; files of them stay
        quantised = torch.quantize_per_tensor(GOOD["1.weight"], 0.1, 0, torch.qint8)
        torch.save({**GOOD, "1.weight": quantised}, "quantised.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "script.pt")


def write_safetensors() -> None:
    save_file(GOOD, "good.safetensors")
    whole = Path("good.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    content = {
        "empty": b"",
        "half_header": whole[: 8 + length // 2],
        "half": whole[:-5],
        "longer": whole + b"more",
        "huge_header": struct.pack("<Q", 1 << 62) + whole[8:],
        "long_header": struct.pack("<Q", len(whole)) + whole[8:],
        "short_header": struct.pack("<Q", length - 9) + whole[8:],
        "words": struct.pack("<Q", 8) + b"not JSON" + bytes(16),
        "dtype": header({"a": {**one, "dtype": "Q99"}}),
        "shape": header({"a": {**one, "shape": [5]}}),
        "negative": header({"a": {**one, "shape": [-4]}}),
        "overlap": header({"a": one, "b": one}),
        "metadata": header({"__metadata__": {"format": "pt"}}, b""),
        "evil": pickle.dumps(Evil()),
    }
    for name, data in content.items():
        Path(f"{name}.safetensors").write_bytes(data)
    Path("safetensors.pt").write_bytes(whole)
    save_file({**GOOD, "1.weight": GOOD["1.weight"].to(torch.float8_e4m3fn)}, "float8.safetensors")
    save_file(
        {key.replace("1.", "first.").replace("3.", "last."): value for key, value in GOOD.items()}, "names.safetensors"
    )
    save_file({**GOOD, "1.bias": torch.full((5,), torch.nan)}, "nan.safetensors")


def header(described: dict[str, object], values: bytes = bytes(16)) -> bytes:
    """Return a safetensors file with any header, true or not."""
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + values


def write_code() -> None:
    Path("nets.py").write_text(NETS)
    Path("broken.py").write_text("def net(:\n")
    Path("binary.py").write_bytes(b"\x00\xff\x00")
    Path("imports.py").write_text("import no_such_package\n")
    Path("quits.py").write_text("raise SystemExit(0)\n")
    Path("shop").mkdir()
    Path("shop/__init__.py").write_text("")
    Path("shop/nets.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(4, 2)\n")
    Path("shop/broken.py").write_text("import no_such_package\n")
    Path("shop/quits.py").write_text("import sys\nsys.exit(0)\n")


def write_folders() -> None:
    Path("mine.py").mkdir()
    Path("mine").mkdir()
    for name in "abcd":
        Path(f"mine/{name}.txt").write_text(name)
    Path("named").mkdir()
    Path("named/model.pt").write_text("of another program")
    Path("link").symlink_to("mine", target_is_directory=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the networks and the files that the table names. Nothing ever changes it: that is tested."""
    folder = tmp_path_factory.mktemp("files")
    with contextlib.chdir(folder):
        write_code()
        write_folders()
        write_pickles()
        write_safetensors()
    return folder


@pytest.fixture
def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to the folder, as if torchvision and timm were not installed."""
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.fixture
def own_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a copy of the folder, for tests that do write."""
    shutil.copytree(folder, tmp_path / "files", symlinks=True)
    monkeypatch.chdir(tmp_path / "files")


def test_the_table_is_long_enough() -> None:
    groups = (OPTIONS, MODELS, FACTORIES, WEIGHTS, SAFETENSORS, NETWORKS, OUTPUTS)
    assert sum(map(len, groups)) == len(WRONG) >= 60, "a name stands twice"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    before = snapshot()
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    flat = " ".join(result.stderr.split())
    assert re.search(message, flat), flat
    assert "Traceback" not in result.output
    assert not result.stdout
    ours = result.stderr.startswith("saliport: ")
    assert len(result.stderr.splitlines()) <= (1 if ours else 4), "one message; that of a wrong option shows the usage"
    assert snapshot() == before, "something was written or lost"
    if ours:
        with pytest.raises(exporter.SaliportError):
            run(*arguments, "--debug")
        assert snapshot() == before


# -- what the table cannot show ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("file", ["evil.pt", "evil_legacy.pt", "evil_nested.pt", "evil.pkl", "evil.safetensors"])
def test_the_files_that_run_code_would_do_so_elsewhere(file: str) -> None:
    """Otherwise the table would not show that nothing was run."""
    if file in ("evil.pkl", "evil.safetensors"):
        pickle.loads(Path(file).read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert Path("pwned").exists()


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_is_shown_on_demand_only(debug: bool) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), *net("raises"), *(["--debug"] if debug else [])]
    result = subprocess.run(command, capture_output=True, text=True)
    assert ("Traceback" in result.stderr) == debug
    assert result.returncode == (1 if debug else 2)


@pytest.mark.usefixtures("own_files")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # PyTorch, of a tensor's item by name
@pytest.mark.parametrize(("name", "line"), [("TakesDict", "(batch["), ("AsksDict", "(batch.get(")])
def test_an_input_by_name(name: str, line: str) -> None:
    result = run(*net(name))
    assert result.exit_code == 2
    place = rf"\(.*nets.py:{line_of(line)}\)"
    assert re.search(rf"not run on .*Its forward takes a dict {place}: wrap it in a module", result.stderr)


@pytest.mark.usefixtures("own_files")
def test_what_lacks_names_within_a_network_is_no_input() -> None:
    result = run(*net("AsksPart"))
    assert result.exit_code == 2
    assert re.search(r"not run on .*no attribute 'get'\. Check --input-shape and the weights", result.stderr)


@pytest.mark.usefixtures("own_files")
def test_what_a_network_prints_is_not_in_the_report() -> None:
    result = run(*net("loud", "4", "--output", "out"))
    assert result.exit_code == 0, result.output
    assert "noise" not in result.stdout
    assert "noise of the factory" in result.stderr
    assert "noise of the network" in result.stderr


@pytest.mark.usefixtures("own_files")
def test_a_read_only_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    # Permissions do not stop root, as whom tests often run, so the question itself is answered here.
    monkeypatch.setattr("exporter.artifact.os.access", lambda path, mode: Path(path).name != "locked")
    result = run(*TINY, "--output", "locked/out")
    assert result.exit_code == 2
    assert "cannot be written: no permission in" in result.stderr
    assert not list(Path("locked").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("before", ["no folder", "an artifact"])
@pytest.mark.parametrize("file", ["model.pt", "model.onnx", "manifest.json"])
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, file: str, before: str) -> None:
    """Each file in turn is one that the system refuses to write, with its own error, not with a mock's."""
    if before == "an artifact":
        assert run(*TINY, "--output", "out", "--seed", "1").exit_code == 0
    found = snapshot()
    make = tempfile.mkdtemp

    def full(*args: str, **kwargs: str) -> str:
        folder = make(*args, **kwargs)
        (Path(folder) / file).symlink_to("/dev/full")
        return folder

    monkeypatch.setattr("exporter.artifact.tempfile.mkdtemp", full)
    result = run(*TINY, "--output", "out")
    assert result.exit_code == 2
    assert result.stderr == f"saliport: --output out cannot be written: {os.strerror(errno.ENOSPC)}\n"
    assert snapshot() == found


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("call", ["tempfile.mkdtemp", "Path.mkdir"])
def test_a_disk_too_full_for_a_folder(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    found = snapshot()
    monkeypatch.setattr(f"exporter.artifact.{call}", full)
    result = run(*TINY, "--output", "new/er/out")
    assert result.exit_code == 2
    assert result.stderr == f"saliport: --output new/er/out cannot be written: {os.strerror(errno.ENOSPC)}\n"
    assert snapshot() == found, "the folders above it included"


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit of a file's size")
@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize(("format", "limit"), [("torchscript", 5000), ("onnx", 900)])
def test_a_file_that_the_system_cuts_short(format: str, limit: int) -> None:
    """Libtorch's own writer ends the whole process here, with its folder left behind."""
    code = (
        "import os, resource, signal, sys; from exporter.cli import export_command;"
        "import exporter.pipeline;"  # so that Python's own files are compiled by now
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); export_command()"
    )
    found = snapshot()
    command = [sys.executable, "-B", "-c", code, *TINY, "--format", format, "--output", "out"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 2, result.stderr
    assert result.stderr == f"saliport: --output out cannot be written: {os.strerror(errno.EFBIG)}\n"
    assert snapshot() == found


@pytest.mark.usefixtures("own_files")
def test_damaged_weights_are_refused_or_read() -> None:
    """Change bytes of good files at random: whatever comes of it, it is an answer and no crash."""
    from exporter.sources import read_weights

    generator = torch.Generator().manual_seed(0)
    refused = 0
    for file in ("good.pt", "legacy.pt", "good.safetensors"):
        whole = Path(file).read_bytes()
        for index in range(100):
            changed = bytearray(whole)
            for _ in range(1 + index % 4):
                at, value = torch.randint(0, len(whole), (2,), generator=generator).tolist()
                changed[at] = value % 256
            Path(f"changed_{file}").write_bytes(changed)
            try:
                read_weights(Path(f"changed_{file}"))
            except exporter.UsageError:
                refused += 1
    assert refused > 100
