/**
 * `node run.mjs ARTIFACT INPUT.npy [--target T,T,…] --output FOLDER`: an artifact in Node, on arrays.
 *
 * Writes each output as FOLDER/<name>.npy. An artifact of several inputs takes `left=LEFT.npy right=RIGHT.npy`. Exit
 * status 2 is wrong use or an artifact that was refused, with one message.
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import * as ort from "onnxruntime-web";

import { readNpy, writeNpy } from "./npy.mjs";
import { openArtifact, PREDICTED } from "./saliport.js";

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { target: { type: "string", default: String(PREDICTED) }, output: { type: "string" } },
  });
  const [folder, ...files] = positionals;
  if (files.length === 0 || values.output === undefined) {
    throw new Error("usage: node run.mjs ARTIFACT INPUT.npy [--target T,T,…] --output FOLDER");
  }
  const targets = values.target.split(",").map(wholeNumber);
  ort.env.wasm.numThreads = 1; // Node would keep running for the sake of the threads
  const artifact = await openArtifact(ort, folder);
  const result = await artifact.run(await readInput(files), targets.length === 1 ? targets[0] : targets);
  await artifact.close();
  await mkdir(values.output, { recursive: true });
  for (const [name, array] of Object.entries(result)) await writeNpy(join(values.output, `${name}.npy`), array);
}

function wholeNumber(text) {
  if (!/^-?\d+$/.test(text)) throw new Error(`--target takes whole numbers, not ${JSON.stringify(text)}`);
  return Number(text);
}

async function readInput(files) {
  const pairs = files.map((file) => /^(\w+)=(.*)$/.exec(file));
  if (files.length === 1 && pairs[0] === null) return readNpy(files[0]);
  if (pairs.includes(null)) throw new Error("several inputs have names: left=LEFT.npy right=RIGHT.npy");
  return Object.fromEntries(await Promise.all(pairs.map(async ([, name, path]) => [name, await readNpy(path)])));
}

try {
  await main();
} catch (error) {
  console.error(`run: ${error.message}`);
  process.exitCode = 2;
}
