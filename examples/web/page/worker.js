/** The work that would freeze the page: hashing, loading, resampling and the network itself, one request at a time. */

import { paint } from "./colors.js";
import { normalize, resample } from "./picture.js";
import { loadRuntime, openOnBest } from "./runtime.js";
import { fits, SaliportError } from "./saliport.js";

let runtime;
let artifact;
let size; // of the network's input: {channels, height, width}
let input; // of the picture on show

const requests = {
  /** Open an artifact: `source` is a folder's URL or a list of files. */
  async open({ source, gpu }) {
    runtime ??= await loadRuntime(gpu);
    const opened = await openOnBest(runtime, source);
    let found;
    try {
      checkFacts(opened.artifact.manifest);
      found = imageSize(opened.artifact.manifest);
    } catch (error) {
      await opened.artifact.close();
      throw error;
    }
    const before = artifact;
    [artifact, size, input] = [opened.artifact, found, undefined];
    await before?.close().catch(() => {}); // what is lost is memory
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

const damaged = (what) => new SaliportError("artifact", `the manifest is damaged: ${what}`);

/** Refuse a manifest that lacks what the page says of an artifact. */
function checkFacts({ model, method, parity }) {
  const isText = (value) => typeof value === "string";
  const proofs = parity?.runtimes;
  const readable = {
    model: isText(model?.spec ?? model?.class) && Number.isSafeInteger(model.parameters),
    method: [method?.name, method?.formula, method?.words].every(isText),
    parity: Array.isArray(proofs) && proofs.every((entry) => Number.isFinite(entry?.relative_l2?.median)),
  };
  for (const [key, good] of Object.entries(readable)) if (!good) throw damaged(`its ${key} cannot be read`);
}

/** Return the input's size, or refuse an artifact that does not take pictures. */
function imageSize({ inputs, dynamic, model }) {
  const [{ sample_shape: sample, shape, dtype }] = inputs;
  const channels = sample?.[0];
  if (inputs.length !== 2 || sample?.length !== 3 || ![1, 3].includes(channels) || dtype !== "float32") {
    const takes = inputs.slice(0, -1).map((input) => `${input.name} ${input.dtype} [${input.shape.join(", ")}]`);
    throw new SaliportError("artifact", `this page shows pictures; the artifact takes ${takes.join(" and ")}`);
  }
  const dims = [1, ...sample];
  if (shape.length !== 4 || !dims.every((found, axis) => fits(found, shape[axis], dynamic))) {
    throw damaged(`a sample of [${sample.join(", ")}] does not fit its shape [${shape.join(", ")}]`);
  }
  const fitting = (values) => Array.isArray(values) && values.length === channels && values.every(Number.isFinite);
  const preprocessing = model.preprocessing ?? null;
  if (preprocessing !== null && ![preprocessing.mean, preprocessing.std].every(fitting)) {
    throw damaged("its preprocessing does not fit its channels");
  }
  return { channels, height: sample[1], width: sample[2] };
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
