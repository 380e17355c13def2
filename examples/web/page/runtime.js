/**
 * Which onnxruntime: WebGPU where there is a GPU and it computes what wasm does, else wasm.
 *
 * WebGPU needs a build of its own, nearly twice as large, so it is fetched only if there is an adapter.
 */

import { openArtifact, SaliportError } from "./saliport.js";

const QUIET = { logSeverityLevel: 3 }; // errors alone: which nodes run on the CPU is no news

/** Relative L2 distance from wasm up to which WebGPU is believed; its float32 differs by rounding alone. */
const TOLERANCE = 1e-3;

/**
 * Load onnxruntime.
 *
 * @param {boolean} gpu Whether WebGPU may be used.
 * @returns `{ort, gpu}`: the library, and whether it can use a GPU.
 */
export async function loadRuntime(gpu) {
  const adapter = gpu ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  const name = adapter ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  try {
    const ort = await import(`./ort/${name}`);
    ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
    return { ort, gpu: Boolean(adapter) };
  } catch (error) {
    throw new SaliportError("runtime", `onnxruntime (${name}) cannot be loaded: ${error.message}`, error);
  }
}

/**
 * Open an artifact on the best provider that there is.
 *
 * @returns `{artifact, note}`: the artifact, and in words what runs it, and why.
 */
export async function openOnBest({ ort, gpu }, source) {
  const artifact = await openArtifact(ort, source, QUIET);
  const threads = ort.env.wasm.numThreads > 1 ? `${ort.env.wasm.numThreads} threads` : "one thread";
  const wasm = `wasm, ${threads}`;
  if (!gpu) return { artifact, note: `${wasm} (no WebGPU here)` };
  let fast;
  try {
    fast = await openArtifact(ort, source, { ...QUIET, executionProviders: ["webgpu", "wasm"] });
    const distance = await compare(artifact, fast);
    if (!(distance <= TOLERANCE)) {
      await fast.close();
      return { artifact, note: `${wasm} (WebGPU is ${distance.toExponential(1)} off, so it is not used)` };
    }
    await artifact.close();
    return { artifact: fast, note: `WebGPU (${distance.toExponential(1)} from wasm on a test image)` };
  } catch (error) {
    await fast?.close().catch(() => {});
    return { artifact, note: `${wasm} (WebGPU failed: ${error.message})` };
  }
}

/** Return the greatest relative L2 distance between the outputs of two sessions, on one image of noise. */
async function compare(artifact, other) {
  const inputs = artifact.manifest.inputs.slice(0, -1);
  const noise = Object.fromEntries(inputs.map((input) => [input.name, noiseFor(input)]));
  const image = inputs.length === 1 ? noise[inputs[0].name] : noise;
  const [expected, found] = [await artifact.run(image), await other.run(image)];
  return Math.max(...Object.keys(expected).map((name) => relativeL2(found[name].data, expected[name].data)));
}

function noiseFor({ sample_shape: shape }) {
  const dims = [1, ...shape];
  let state = 1;
  const data = Float32Array.from({ length: dims.reduce((product, size) => product * size) }, () => {
    state = (16807 * state) % 2147483647; // Park and Miller's generator
    return (state / 2147483647 - 0.5) * 4;
  });
  return { data, dims };
}

function relativeL2(found, expected) {
  let [error, norm] = [0, 0];
  for (let index = 0; index < expected.length; index++) {
    error += (found[index] - expected[index]) ** 2;
    norm += expected[index] ** 2;
  }
  return norm === 0 ? Math.sqrt(error) : Math.sqrt(error / norm);
}
