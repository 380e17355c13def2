"""Where networks and weights come from: a ``--model`` SPEC, its ``--model-args``, and ``--weights``."""

from exporter.sources.source import Source, resolve
from exporter.sources.weights import load_weights, read_weights, strip, tensors_of, weights_sha256

__all__ = ["Source", "load_weights", "read_weights", "resolve", "strip", "tensors_of", "weights_sha256"]
