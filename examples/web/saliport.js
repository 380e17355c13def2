/**
 * Opens a Saliport artifact and runs it, in a browser or in Node: made for copying, it needs onnxruntime-web alone.
 *
 *     import * as ort from "onnxruntime-web";
 *     import { openArtifact } from "./saliport.js";
 *
 *     const artifact = await openArtifact(ort, "artifacts/cifar_resnet20-guided");
 *     const image = { data: new Float32Array(3 * 32 * 32), dims: [1, 3, 32, 32] };
 *     const { logits, attribution } = await artifact.run(image, -1);
 *
 * An artifact is data. Nothing in it runs as code or names a file outside its folder, every byte of the model and of
 * the manifest is held against its hash before onnxruntime sees it, and a call is checked before it takes memory.
 */

/** The version of the manifest's schema that this module reads. */
export const SCHEMA = 2;

/** The target that stands for the class which the input is predicted to be. */
export const PREDICTED = -1;

/**
 * The one error that this module throws.
 *
 * `kind` is "artifact" (a file is missing, damaged, changed or of another schema), "input" (the call is wrong: the
 * message says what was expected) or "runtime" (onnxruntime failed, or something it needs is missing; see `cause`).
 */
export class SaliportError extends Error {
  constructor(kind, message, cause) {
    super(message, { cause });
    this.name = "SaliportError";
    this.kind = kind;
  }
}

/**
 * Open an artifact: read its manifest, check both against their hashes, and load the model.
 *
 * @param ort onnxruntime-web, imported by the caller: its wasm or its WebGPU build.
 * @param source The folder's URL, or in Node its path; or the two files themselves, as a list of `File`.
 * @param options onnxruntime's session options. `executionProviders` is `["wasm"]` unless it says otherwise.
 * @returns {Promise<Artifact>}
 * @throws {SaliportError}
 */
export async function openArtifact(ort, source, options = {}) {
  const folder = reader(source);
  const manifest = await readManifest(await folder.read("manifest.json", MANIFEST_LIMIT));
  const file = manifest.files.onnx;
  const model = await folder.read(file.name, file.bytes);
  const found = await sha256(model);
  if (model.length !== file.bytes || found !== file.sha256) {
    const what = `sha256 ${found} of ${model.length} bytes, not ${file.sha256} of ${file.bytes}`;
    throw new SaliportError("artifact", `${file.name} has changed since it was proven: ${what}`);
  }
  let session;
  try {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], ...options });
  } catch (error) {
    throw new SaliportError("runtime", `onnxruntime does not load ${file.name}: ${error.message}`, error);
  }
  const named = (entries) => entries.map((entry) => entry.name).join(", ");
  const [takes, gives] = [session.inputNames.join(", "), session.outputNames.join(", ")];
  if (takes !== named(manifest.inputs) || gives !== named(manifest.outputs)) {
    await session.release();
    throw damaged(`${file.name} maps ${takes} to ${gives}, which is not what the manifest says`);
  }
  return new Artifact(ort, manifest, session);
}

/** A loaded artifact; `manifest` is what its folder says about it. */
export class Artifact {
  #ort;
  #session;
  #last = Promise.resolve();
  #closed;

  constructor(ort, manifest, session) {
    this.#ort = ort;
    this.#session = session;
    this.manifest = manifest;
  }

  /** How many classes there are: targets are 0 to `classes - 1`, and -1. */
  get classes() {
    return this.manifest.inputs.at(-1).range[1] + 1;
  }

  /**
   * Predict and explain a batch. Calls may overlap; they run one after the other, each on what it was given when it
   * was made.
   *
   * @param image `{data, dims}`: a typed array of the artifact's dtype and its sizes, `[N, …]`; an `ort.Tensor` will
   *     do. An artifact of several inputs takes an object with one of these by each input's name.
   * @param target The class to explain, or a list with one for each sample; -1 is the predicted one.
   * @returns By the name of each output `{data, dims}`: `logits`, and `attribution` in the image's shape; of several
   *     inputs `attribution_<name>`.
   * @throws {SaliportError}
   */
  async run(image, target = PREDICTED) {
    const inputs = this.manifest.inputs.slice(0, -1);
    const given = inputs.length === 1 ? { [inputs[0].name]: image } : image;
    checkNames(inputs, given);
    const batch = given[inputs[0].name]?.dims?.[0];
    for (const input of inputs) checkTensor(input, given[input.name], batch, this.manifest.dynamic);
    const targets = checkTargets(target, batch, this.classes);
    if (this.#closed !== undefined) throw new SaliportError("input", "the artifact is closed");
    try {
      // Copies: the caller may use its buffers again before the calls ahead of this one are done.
      const feed = { target: new this.#ort.Tensor("int64", targets, [batch]) };
      for (const { name, dtype } of inputs) {
        feed[name] = new this.#ort.Tensor(dtype, given[name].data.slice(), given[name].dims.slice());
      }
      // A WebGPU session refuses a call while another is under way.
      const result = this.#last.then(() => this.#session.run(feed));
      this.#last = result.catch(() => {});
      const found = await result;
      const names = this.manifest.outputs.map(({ name }) => name);
      return Object.fromEntries(names.map((name) => [name, { data: found[name].data, dims: found[name].dims }]));
    } catch (error) {
      throw new SaliportError("runtime", `onnxruntime failed: ${error.message}`, error);
    }
  }

  /** Give the model's memory back, after the calls that are under way; a second time does nothing. */
  close() {
    this.#closed ??= this.#last.then(() => this.#session.release()).catch((error) => {
      throw new SaliportError("runtime", `onnxruntime failed: ${error.message}`, error);
    });
    return this.#closed;
  }
}

// Reading: never more than the manifest says, so that a wrong or endless file costs no memory.

const MANIFEST_LIMIT = 16 * 2 ** 20;

const IN_NODE = Boolean(globalThis.process?.versions?.node);

/** Return `{read(name, limit)}` for what `openArtifact` was given. */
function reader(source) {
  const text = source instanceof URL ? source.href : source;
  if (typeof text === "string") {
    if (IN_NODE && !/^https?:/i.test(text)) return { read: (name, limit) => readFromDisk(text, name, limit) };
    return { read: (name, limit) => readFromUrl(inFolder(text, name), name, limit) };
  }
  const files = typeof source?.[Symbol.iterator] === "function" ? [...source] : [null];
  if (!files.every((file) => typeof file?.name === "string" && typeof file.arrayBuffer === "function")) {
    throw new SaliportError("input", "openArtifact takes a folder's URL, in Node its path, or a list of its two files");
  }
  return { read: (name, limit) => readFromFiles(files, name, limit) };
}

/** Return the URL of a folder's file; what is asked of the folder after a question mark is asked of the file. */
function inFolder(text, name) {
  try {
    const folder = new URL(text, globalThis.location?.href);
    if (!folder.pathname.endsWith("/")) folder.pathname += "/";
    const url = new URL(name, folder);
    url.search = folder.search;
    return url;
  } catch (error) {
    throw new SaliportError("input", `${text} is not the URL of a folder`, error);
  }
}

async function readFromUrl(url, name, limit) {
  const chunks = [];
  let size = 0;
  try {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`HTTP status ${response.status}`);
    const stream = response.body.getReader();
    for (let part = await stream.read(); !part.done; part = await stream.read()) {
      size += part.value.length;
      if (size > limit) {
        await stream.cancel();
        throw tooLong(name, limit);
      }
      chunks.push(part.value);
    }
  } catch (error) {
    throw error instanceof SaliportError ? error : unreadable(url, error);
  }
  const bytes = new Uint8Array(size);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.length;
  }
  return bytes;
}

async function readFromFiles(files, name, limit) {
  const file = files.find((candidate) => candidate.name === name);
  if (file === undefined) {
    throw new SaliportError("artifact", `an artifact is manifest.json and model.onnx; ${name} is missing`);
  }
  if (file.size > limit) throw tooLong(name, limit);
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch (error) {
    throw unreadable(name, error);
  }
}

async function readFromDisk(folder, name, limit) {
  const { constants, open } = await import("node:fs/promises");
  const { join } = await import("node:path");
  const { fileURLToPath } = await import("node:url");
  let path = folder;
  let handle;
  try {
    path = join(/^file:/i.test(folder) ? fileURLToPath(folder) : folder, name);
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK); // a pipe would wait for its writer
    const stat = await handle.stat();
    if (!stat.isFile()) throw new Error("it is no file"); // a device has no size, and may have no end
    if (stat.size > limit) throw tooLong(name, limit);
    const bytes = new Uint8Array(stat.size + 1); // one more, to see that a file grew
    let size = 0;
    for (let read = -1; read !== 0; size += read) {
      read = (await handle.read(bytes, size, bytes.length - size)).bytesRead;
    }
    return bytes.subarray(0, size);
  } catch (error) {
    throw error instanceof SaliportError ? error : unreadable(path, error);
  } finally {
    await handle?.close();
  }
}

async function sha256(bytes) {
  const crypto = globalThis.crypto ?? (IN_NODE ? (await import("node:crypto")).webcrypto : undefined);
  if (crypto?.subtle === undefined) {
    const reason = "the browser hashes files only for pages that come over https or from localhost";
    throw new SaliportError("runtime", `crypto.subtle is missing: ${reason}`);
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The manifest: what is used of it is checked, its own hash included.

const DTYPES = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

async function readManifest(bytes) {
  let text, manifest;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    manifest = JSON.parse(text);
  } catch (error) {
    throw new SaliportError("artifact", `manifest.json is not JSON: ${error.message}`, error);
  }
  const version = manifest?.schema;
  if (version !== SCHEMA) {
    const found = version === undefined ? "no schema" : `schema ${JSON.stringify(version)}`;
    throw new SaliportError("artifact", `manifest.json has ${found}; this program reads ${SCHEMA}`);
  }
  // The seal is the last entry, and the hash of the text as it would be without it.
  const seal = /,\n {2}"manifest_sha256": "([0-9a-f]{64})"\n}\n$/.exec(text);
  const rest = seal && `${text.slice(0, seal.index)}\n}\n`;
  if (seal === null || seal[1] !== (await sha256(new TextEncoder().encode(rest)))) {
    const what = "its manifest_sha256 does not match";
    throw new SaliportError("artifact", `manifest.json has changed since it was written: ${what}`);
  }
  checkManifest(manifest);
  return manifest;
}

function checkManifest({ files, inputs, outputs, dynamic }) {
  if (typeof files !== "object" || files === null) throw damaged("it names no files");
  if (files.onnx === undefined) {
    throw new SaliportError("artifact", "the artifact holds no model.onnx; export it with --format onnx");
  }
  const { name, bytes, sha256 } = files.onnx ?? {};
  if (name !== "model.onnx") {
    throw damaged(`its ONNX file is ${JSON.stringify(name)}, not model.onnx in its own folder`);
  }
  if (!isSize(bytes) || !/^[0-9a-f]{64}$/.test(sha256)) {
    throw damaged("it does not say how long model.onnx is, or its hash");
  }
  const isRule = (size) => isSize(size?.min) && isSize(size.multiple_of) && isSize(size.max ?? size.min);
  if (!Array.isArray(dynamic) || !dynamic.every(isRule)) {
    throw damaged("its dynamic sizes cannot be read");
  }
  for (const tensors of [inputs, outputs]) {
    if (!Array.isArray(tensors) || tensors.length < 2 || !tensors.every(isTensor)) {
      throw damaged("its inputs and outputs cannot be read");
    }
  }
  for (const { name, dtype, shape } of inputs) {
    if (!Object.hasOwn(DTYPES, dtype)) {
      const known = Object.keys(DTYPES).join(", ");
      throw new SaliportError("artifact", `input ${name} is ${dtype}; this program has ${known}`);
    }
    const known = (size) => isSize(size) || dynamic.some((entry) => entry.name === size);
    if (shape[0] !== "batch" || !shape.every(known)) throw damaged(`the shape of its input ${name} cannot be read`);
  }
  const { name: last, range } = inputs.at(-1);
  const [first, top] = Array.isArray(range) ? range : [];
  if (last !== "target" || first !== PREDICTED || !isSize(top + 1)) {
    throw damaged("its last input is no target with a range of classes");
  }
}

const isSize = (value) => Number.isSafeInteger(value) && value > 0;
const isTensor = (entry) => typeof entry?.name === "string" && Array.isArray(entry.shape);

// The call.

function checkNames(inputs, given) {
  const names = inputs.map(({ name }) => name);
  const found = Object.keys(given ?? {});
  if (found.length !== names.length || !names.every((name) => Object.hasOwn(given, name))) {
    throw new SaliportError("input", `the artifact takes ${names.join(", ")}, not ${found.join(", ") || "nothing"}`);
  }
}

function checkTensor({ name, dtype, shape }, tensor, batch, dynamic) {
  const wrong = (what) => new SaliportError("input", `${name} ${what}`);
  const { data, dims } = tensor ?? {};
  const wanted = `[${shape.join(", ")}]`;
  if (!Array.isArray(dims) || dims.length !== shape.length || !dims.every(isSize)) {
    const which = dims?.length === shape.length ? ", whole numbers from 1" : "";
    throw wrong(`has shape [${[dims].flat().join(", ")}]; it must be ${wanted}${which}`);
  }
  for (const [axis, size] of shape.entries()) {
    const rule = dynamic.find((entry) => entry.name === size);
    if (!fits(dims[axis], size, dynamic)) {
      const most = rule?.max === undefined ? "" : `, at most ${rule.max}`;
      const which = rule ? `, its ${size} ${rule.min} plus a multiple of ${rule.multiple_of}${most}` : "";
      throw wrong(`has shape [${dims.join(", ")}]; it must be ${wanted}${which}`);
    }
  }
  if (dims[0] !== batch) throw wrong(`has a batch of ${dims[0]}, another input one of ${batch}`);
  if (!(data instanceof DTYPES[dtype])) {
    throw wrong(`is ${data?.constructor?.name ?? typeof data}; ${dtype} takes a ${DTYPES[dtype].name}`);
  }
  const count = dims.reduce((product, size) => product * size, 1);
  if (data.length !== count) throw wrong(`has ${data.length} values; [${dims.join(", ")}] is ${count}`);
}

/** Tell whether a size is what a manifest's shape says: that number, or one that the size of that name may have. */
export function fits(found, size, dynamic) {
  const rule = dynamic.find((entry) => entry.name === size);
  const steps = rule ? (found - rule.min) / rule.multiple_of : 0;
  return isSize(found) && (rule ? steps >= 0 && Number.isInteger(steps) && !(found > rule.max) : found === size);
}

function checkTargets(target, batch, classes) {
  const list = ArrayBuffer.isView(target) || Array.isArray(target) ? target : null;
  if (list !== null && list.length !== batch) {
    throw new SaliportError("input", `target has ${list.length} values; for this batch it must have ${batch}`);
  }
  const check = (value) => {
    const whole = typeof value === "bigint" ? Number(value) : value;
    if (!Number.isSafeInteger(whole)) throw new SaliportError("input", `target ${String(value)} is not a whole number`);
    if (whole < PREDICTED || whole >= classes) {
      const allowed = `the classes are 0 to ${classes - 1}, -1 the predicted one`;
      throw new SaliportError("input", `target ${whole} is out of range; ${allowed}`);
    }
    return BigInt(whole);
  };
  return list === null ? new BigInt64Array(batch).fill(check(target)) : BigInt64Array.from(list, check);
}

const damaged = (what) => new SaliportError("artifact", `the manifest is damaged: ${what}`);
const tooLong = (name, limit) => new SaliportError("artifact", `${name} is longer than ${limit} bytes`);
const unreadable = (place, error) => new SaliportError("artifact", `${place} cannot be read: ${error.message}`, error);
