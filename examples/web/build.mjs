/**
 * `node build.mjs [ARTIFACT]`: put the page together in dist/, a folder that any static server can serve.
 *
 * ARTIFACT is artifacts/cifar_resnet20-guided of this repository unless it says otherwise; it is checked, then copied.
 */

import { copyFile, cp, mkdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import * as ort from "onnxruntime-web";

import { openArtifact } from "./saliport.js";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, "..", "..");
const DEFAULT = join(ROOT, "artifacts", "cifar_resnet20-guided");

/** The wasm build, and the larger one that can use a GPU; the page fetches one of them. */
export const RUNTIMES = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};

/** Build the page into a folder, and return the folder. */
export async function build(artifact = DEFAULT, folder = join(HERE, "dist")) {
  ort.env.wasm.numThreads = 1;
  await (await openArtifact(ort, artifact)).close();
  await rm(folder, { recursive: true, force: true });
  await cp(join(HERE, "page"), folder, { recursive: true });
  await mkdir(join(folder, "artifact"));
  await mkdir(join(folder, "ort"));
  await copyFile(join(HERE, "saliport.js"), join(folder, "saliport.js"));
  await copyFile(join(ROOT, "docs", "chelsea.png"), join(folder, "chelsea.png"));
  for (const name of ["manifest.json", "model.onnx"]) {
    await copyFile(join(artifact, name), join(folder, "artifact", name));
  }
  const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  for (const name of Object.values(RUNTIMES).flat()) await copyFile(join(runtime, name), join(folder, "ort", name));
  return folder;
}

/** Return the artifact that a command line names, as seen from where npm was called. */
export function artifactOf(argument) {
  return argument === undefined ? DEFAULT : resolve(process.env.INIT_CWD ?? ".", argument);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(`Built ${await build(artifactOf(process.argv[2]), process.argv[3])}`);
  } catch (error) {
    console.error(`build: ${error.message}\nExport an artifact first: python scripts/export.py --model cifar_resnet20`);
    process.exitCode = 2;
  }
}
