"""``python explain.py ARTIFACT PIXELS.npy [CLASS]``: predict and explain with onnxruntime and numpy alone.

PIXELS is a batch ``[N, C, H, W]`` of floats in [0, 1]; without a class, the predicted ones are explained. The logits
and the attribution go to ``explained.npz``, in the current folder.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, pixels, target = Path(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else -1
manifest, model = json.loads((folder / "manifest.json").read_bytes()), (folder / "model.onnx").read_bytes()
seal, rest = manifest.pop("manifest_sha256", None), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
hashes = [hashlib.sha256(data).hexdigest() for data in (rest.encode(), model)]
if manifest["schema"] != 2 or hashes != [seal, manifest["files"]["onnx"]["sha256"]]:
    sys.exit(f"{folder} is not what was proven")
if pixels.dtype.kind != "f" or not ((pixels >= 0) & (pixels <= 1)).all():
    sys.exit(f"{sys.argv[2]} holds {pixels.dtype}; give floats in [0, 1], which bytes divided by 255 are")
scale = manifest["model"].get("preprocessing", {"mean": [0], "std": [1]})
mean, std = (np.float32(scale[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
options = onnxruntime.SessionOptions()
options.enable_mem_pattern = False  # less memory, in the same time
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feed = {"image": (np.float32(pixels) - mean) / std, "target": np.full(len(pixels), target, np.int64)}
logits, attribution = session.run(["logits", "attribution"], feed)
for best in logits.argmax(1):
    print(manifest["model"].get("classes", range(logits.shape[1]))[best])
np.savez("explained.npz", logits=logits, attribution=attribution)
