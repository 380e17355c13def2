/** The work that would freeze the page: hashing, loading, resampling and the network itself, one request at a time. */

import { paint } from "./colors.js";
import { normalize, resample } from "./picture.js";
import { loadRuntime, openOnBest } from "./runtime.js";
import { SaliportError } from "./saliport.js";

let runtime;
let artifact;
let size; // of the network's input: {channels, height, width}
let input; // of the picture on show

const requests = {
  /** Open an artifact: `source` is a folder's URL or a list of files. */
  async open({ source, gpu }) {
    runtime ??= await loadRuntime(gpu);
    const opened = await openOnBest(runtime, source);
    try {
      size = imageSize(opened.artifact.manifest);
    } catch (error) {
      await opened.artifact.close();
      throw error;
    }
    await artifact?.close();
    artifact = opened.artifact;
    input = undefined;
    const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
    return { manifest: artifact.manifest, size, note: opened.note, fetched };
  },

  /** Take a picture's central part, RGBA, as the input, and explain the predicted class. */
  async see({ pixels, width, height }) {
    const planes = resample(new Uint8ClampedArray(pixels), { width, height }, size, size.channels);
    input = normalize(planes, artifact.manifest.model.preprocessing);
    const seen = new Uint8ClampedArray(4 * planes[0].length).fill(255);
    for (let color = 0; color < 3; color++) {
      planes[color % planes.length].forEach((value, index) => {
        seen[4 * index + color] = value;
      });
    }
    return { seen, ...(await explain(-1)) };
  },

  explain: ({ target }) => explain(target),
};

async function explain(target) {
  const start = performance.now();
  const dims = [1, size.channels, size.height, size.width];
  const { logits, attribution } = await artifact.run({ data: input, dims }, target);
  const milliseconds = performance.now() - start;
  const isZero = attribution.data.every((value) => value === 0);
  return { probabilities: softmax(logits.data), map: paint(attribution.data, size.channels), isZero, milliseconds };
}

function softmax(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const exponents = Float64Array.from(logits, (logit) => Math.exp(logit - top));
  const sum = exponents.reduce((a, b) => a + b);
  return exponents.map((exponent) => exponent / sum);
}

/** Return the input's size, or refuse an artifact that does not take pictures. */
function imageSize({ inputs, model }) {
  const [{ sample_shape: shape, dtype }] = inputs;
  const channels = shape?.[0];
  if (inputs.length !== 2 || shape?.length !== 3 || ![1, 3].includes(channels) || dtype !== "float32") {
    const takes = inputs.slice(0, -1).map((input) => `${input.name} ${input.dtype} [${input.shape.join(", ")}]`);
    throw new SaliportError("artifact", `this page shows pictures; the artifact takes ${takes.join(" and ")}`);
  }
  for (const key of ["mean", "std"]) {
    if (model.preprocessing && model.preprocessing[key]?.length !== channels) {
      throw new SaliportError("artifact", "the manifest is damaged: its preprocessing does not fit its channels");
    }
  }
  return { channels, height: shape[1], width: shape[2] };
}

let last = Promise.resolve();
onmessage = ({ data: { id, request, ...details } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, answer: await requests[request](details) });
    } catch (error) {
      postMessage({ id, error: { message: error.message, kind: error.kind ?? "program" } });
    }
  });
};
