/**
 * `node bench.mjs ARTIFACT FORWARD.onnx [--repeat N]`: what a prediction with its map costs beside a prediction alone,
 * in Node's wasm on one thread, and what a page has to fetch. Calls take turns; the figures are medians.
 *
 * FORWARD.onnx is the same network by PyTorch's own exporter; README.md has the line.
 */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";

import * as ort from "onnxruntime-web";

import { RUNTIMES } from "./build.mjs";
import { openArtifact } from "./saliport.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { repeat: { type: "string", default: "200" } },
});
const [folder, forwardFile] = positionals;
if (forwardFile === undefined) throw new Error("usage: node bench.mjs ARTIFACT FORWARD.onnx [--repeat N]");

ort.env.wasm.numThreads = 1;
const artifact = await openArtifact(ort, folder);
const bytes = new Uint8Array(await readFile(forwardFile));
const forward = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
const dims = [1, ...artifact.manifest.inputs[0].sample_shape];
const length = dims.reduce((product, size) => product * size);
const data = Float32Array.from({ length }, (_, index) => Math.sin(index * index));
const feed = { [forward.inputNames[0]]: new ort.Tensor("float32", data, dims) };

async function time(call) {
  const start = performance.now();
  await call();
  return performance.now() - start;
}

const times = { forward: [], explained: [] };
const count = Number(values.repeat);
for (let round = 0; round < count + 10; round++) {
  times.forward.push(await time(() => forward.run(feed)));
  times.explained.push(await time(() => artifact.run({ data, dims }, -1)));
}
const median = (list) => list.slice(10).sort((a, b) => a - b)[count >> 1]; // the first ten warm up
const [alone, both] = [median(times.forward), median(times.explained)];
const ratio = (both / alone).toFixed(2);
console.log(`forward ${alone.toFixed(2)} ms, with its map ${both.toFixed(2)} ms, ratio ${ratio} (${count} calls each)`);

const megabytes = (bytes) => (bytes / 1e6).toFixed(2);
const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
const parts = Object.entries(RUNTIMES).map(([name, files]) => [name, files.map((file) => join(runtime, file))]);
parts.push(["artifact", ["model.onnx", "manifest.json"].map((file) => join(folder, file))]);
for (const [name, files] of parts) {
  const contents = await Promise.all(files.map((file) => readFile(file)));
  const size = contents.reduce((sum, content) => sum + content.length, 0);
  const packed = contents.reduce((sum, content) => sum + gzipSync(content).length, 0);
  console.log(`${name}: ${megabytes(size)} MB, ${megabytes(packed)} MB with gzip`);
}
