/**
 * `node test/calls.mjs ARTIFACT`: what saliport.js says to wrong calls and to overlapping ones, as JSON for pytest.
 *
 * ARTIFACT takes pictures, float32 [batch, 3, 32, 32], and has 10 classes. Each wrong call's entry is what was thrown.
 */

import { File } from "node:buffer";
import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

import * as ort from "onnxruntime-web";

import { fits, openArtifact, SaliportError } from "../saliport.js";
import { serve } from "../serve.mjs";

const folder = process.argv[2];
ort.env.wasm.numThreads = 1;
const artifact = await openArtifact(ort, folder);

/** Pictures of a fixed noise. */
function pictures(batch) {
  const data = Float32Array.from({ length: batch * 3072 }, (_, index) => Math.sin(index * index));
  return { data, dims: [batch, 3, 32, 32] };
}

const image = pictures(1);
const with_ = (changes) => ({ ...image, ...changes });
const wrong = {
  "no image": [undefined, -1],
  "no sizes": [{ data: image.data }, -1],
  "rank": [with_({ dims: [3, 32, 32] }), -1],
  "channels": [with_({ dims: [1, 1, 32, 96] }), -1],
  "image size": [with_({ dims: [1, 3, 16, 64] }), -1],
  "no batch": [{ data: new Float32Array(0), dims: [0, 3, 32, 32] }, []],
  "negative batch": [with_({ dims: [-1, 3, 32, 32] }), -1],
  "half a batch": [with_({ dims: [0.5, 3, 32, 32] }), -1],
  "a batch that is not there": [with_({ dims: [2 ** 40, 3, 32, 32] }), -1],
  "one value less": [with_({ data: image.data.subarray(1) }), -1],
  "doubles": [with_({ data: Float64Array.from(image.data) }), -1],
  "a list": [with_({ data: Array.from(image.data) }), -1],
  "target 10": [image, 10],
  "target -2": [image, -2],
  "target 2^70": [image, 2n ** 70n],
  "target 1.5": [image, 1.5],
  "target NaN": [image, NaN],
  "target '3'": [image, "3"],
  "two targets": [image, [1, 2]],
  "one bad target of two": [pictures(2), [1, 10]],
};

const report = { classes: artifact.classes, wrong: {} };
for (const [name, [given, target]] of Object.entries(wrong)) {
  report.wrong[name] = await artifact.run(given, target).then(() => "accepted", thrown);
}

// Sizes that may vary, as two manifests have them.
const rule = { name: "height", min: 8, multiple_of: 4 };
const sizes = Array.from({ length: 40 }, (_, size) => size);
report.fitting = [rule, { ...rule, max: 20 }].map((one) => sizes.filter((size) => fits(size, "height", [one])));

// The graph refuses by itself what this module would not let through.
report.graph = {};
for (const target of [10n, -2n]) {
  const model = new Uint8Array(await readFile(join(folder, "model.onnx")));
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 4 });
  const feed = { image: new ort.Tensor("float32", image.data, image.dims), target: new ort.Tensor("int64", [target]) };
  report.graph[target] = await session.run(feed).then(() => "accepted", () => "refused");
}

// Targets may be numbers, BigInts, lists or typed arrays.
const same = (one, other) => one.attribution.data.every((value, index) => value === other.attribution.data[index]);
const three = await artifact.run(image, 3);
report.targets = [];
for (const target of [3n, [3], [3n], Int32Array.of(3), BigInt64Array.of(3n)]) {
  report.targets.push(same(await artifact.run(image, target), three));
}

// Calls that overlap give what they give alone.
const alone = [];
for (let target = 0; target < 10; target++) alone.push(await artifact.run(image, target));
const together = await Promise.all(alone.map((_, target) => artifact.run(image, target)));
report.overlapping = together.map((result, target) => same(result, alone[target]));
report.distinct = same(alone[0], alone[1]) === false;

// A caller may use one buffer for calls that overlap.
const buffer = with_({ data: new Float32Array(3072) });
const refilled = [1, 2, 3].map((scale) => {
  buffer.data.set(image.data.map((value) => value * scale));
  return { scaled: with_({ data: buffer.data.slice() }), result: artifact.run(buffer, 3) };
});
report.refilled = [];
for (const { scaled, result } of refilled) report.refilled.push(same(await result, await artifact.run(scaled, 3)));

// A closed artifact stays closed.
report.closed = [];
for (const action of [() => artifact.close(), () => artifact.close(), () => artifact.run(image)]) {
  report.closed.push(await action().then(() => "accepted", thrown));
}

// An artifact comes from a path, a file URL, a web server, or as files.
const files = await Promise.all(["manifest.json", "model.onnx"].map(asFile));
const server = await serve(dirname(folder), 0);
const home = `http://localhost:${server.address().port}`;
const webUrl = `${home}/${basename(folder)}`;
const asked = [];
server.on("request", (request) => asked.push(request.url));
report.sources = {};
const good = { path: folder, fileUrl: pathToFileURL(folder), webUrl, query: `${webUrl}?y=1`, files };
for (const [name, source] of Object.entries(good)) {
  const found = await openArtifact(ort, source);
  report.sources[name] = same(await found.run(image, 3), three);
  await found.close();
}
report.asked = asked.filter((url) => url.includes("?"));
const bad = {
  nowhere: join(folder, "nowhere"),
  notFound: `${home}/nowhere`,
  noFiles: [],
  nothing: undefined,
  number: 42,
  object: {},
  noFile: [null],
  noUrl: "http://[",
  otherHost: "file://host/x",
  dataUrl: new URL("data:text/plain,x"),
};
for (const [name, source] of Object.entries(bad)) {
  report.sources[name] = await openArtifact(ort, source).then(() => "accepted", thrown);
}
server.closeAllConnections();
server.close();

async function asFile(name) {
  return new File([await readFile(join(folder, name))], name);
}

function thrown(error) {
  return { documented: error instanceof SaliportError, kind: error.kind, message: error.message };
}

console.log(JSON.stringify(report));
