/** The page: what is shown, chosen and announced. The work is the worker's. */

import { centralPart } from "./picture.js";

const at = (id) => document.getElementById(id);
const FINE = 512; // side of the photograph on the page, in pixels
const ROWS = 10; // classes in the list; all of them, if there are more, in a menu below it
const LARGEST = 64e6; // pixels of a photograph: a canvas takes four bytes for each

const options = new URLSearchParams(location.search);

// The worker, as a function: ask("see", …) is a promise of its answer.

const waiting = new Map();
let worker;

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), { kind: error.kind }));
    else resolve(answer);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "the worker could not be started"));
    waiting.clear();
  };
}

let sent = 0;

function ask(request, details, transfer = []) {
  return new Promise((resolve, reject) => {
    sent += 1;
    waiting.set(sent, { resolve, reject });
    worker.postMessage({ id: sent, request, ...details }, transfer);
  });
}

// What is on show.

let opened; // {manifest, size, note, fetched}
let photo; // the Blob
let predicted;
let explained;
let shown = 0; // number of the request whose answer may be shown: an answer that came too late is not

const nameOf = (index) => opened.manifest.model.classes?.[index] ?? `class ${index}`;

async function open(source) {
  await attempt("Loading the network…", async (isLatest) => {
    opened = await ask("open", { source, gpu: options.get("runtime") !== "wasm" });
    showFacts();
    if (isLatest()) await show(photo ?? (await sample()), isLatest);
  });
}

async function see(blob) {
  await attempt("Looking…", (isLatest) => show(blob, isLatest));
}

async function explain(target) {
  await attempt("Looking…", async (isLatest) => {
    try {
      const answer = await ask("explain", { target });
      if (isLatest()) showMap(answer, target);
    } catch (error) {
      if (isLatest()) mark(explained);
      throw error;
    }
  });
}

/** Do something that may fail, and say so; what was on show stays. */
async function attempt(progress, action) {
  shown += 1;
  const number = shown;
  const isLatest = () => number === shown;
  at("progress").textContent = progress;
  at("stage").setAttribute("aria-busy", "true");
  try {
    await action(isLatest);
    if (isLatest()) showError("");
  } catch (error) {
    if (isLatest()) showError(error.message);
  } finally {
    if (isLatest()) at("stage").setAttribute("aria-busy", "false");
  }
}

async function sample() {
  const response = await fetch("chelsea.png");
  return response.blob();
}

async function show(blob, isLatest) {
  if (opened === undefined) throw new Error("there is no network to show it to: open an artifact first");
  const bitmap = await decode(blob);
  const part = centralPart(bitmap, opened.size);
  const pixels = cut(bitmap, part, part.width, part.height);
  const { buffer } = pixels.data;
  const answer = await ask("see", { pixels: buffer, width: part.width, height: part.height }, [buffer]);
  if (!isLatest()) return;
  photo = blob;
  const scale = FINE / Math.max(part.width, part.height);
  draw(at("photo"), cut(bitmap, part, Math.round(scale * part.width), Math.round(scale * part.height)));
  bitmap.close();
  draw(at("seen"), new ImageData(answer.seen, opened.size.width, opened.size.height));
  predicted = answer.probabilities.indexOf(Math.max(...answer.probabilities));
  showClasses(answer.probabilities);
  showMap(answer, predicted);
}

async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${blob.name ?? "the file"} is not an image that this browser can read`);
  }
  if (bitmap.width * bitmap.height > LARGEST) {
    const size = `${bitmap.width} x ${bitmap.height}`;
    bitmap.close();
    throw new Error(`the image has ${size} pixels; choose one below ${LARGEST / 1e6} megapixels`);
  }
  return bitmap;
}

/** Return a part of a picture as pixels, on white where it is transparent. */
function cut(bitmap, part, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, part.left, part.top, part.width, part.height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function draw(canvas, pixels) {
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// The answer.

function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  if (share < 1 && share >= 0.9995) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

function showClasses(probabilities) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  at("rows").replaceChildren(...order.slice(0, ROWS).map((index) => row(index, probabilities[index])));
  at("main").classList.remove("empty");
  at("more").hidden = order.length <= ROWS;
  at("all").replaceChildren(...[...probabilities.keys()].map((index) => new Option(nameOf(index), index)));
  const small = Object.assign(document.createElement("small"), { textContent: percent(probabilities[predicted]) });
  at("prediction").replaceChildren(nameOf(predicted), " ", small);
}

function row(index, share) {
  const label = Object.assign(document.createElement("label"), { className: "row" });
  label.style.setProperty("--share", `${100 * share}%`);
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "class", value: index });
  const part = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
  label.append(part("bar", ""), input, part("name", nameOf(index)), part("share", percent(share)));
  return label;
}

function showMap({ map, isZero, milliseconds }, target) {
  const { width, height } = opened.size;
  const pixels = new ImageData(map, width, height);
  draw(at("map"), pixels);
  draw(at("overlay"), pixels);
  mark(target);
  const what = target === predicted ? `the network's answer, ${nameOf(target)}` : nameOf(target);
  at("explained").textContent = isZero ? `The map of ${what} is zero throughout.` : `The map explains ${what}.`;
  fact("time", `${milliseconds.toFixed(0)} ms for the prediction and its map`);
}

function mark(target) {
  explained = target;
  for (const input of at("rows").querySelectorAll("input")) input.checked = Number(input.value) === target;
  at("all").value = target;
}

function showError(message) {
  at("error").textContent = message;
  at("error").hidden = message === "";
}

// What the artifact says about itself.

const LABELS = {
  network: "Network",
  method: "Method",
  proof: "Proof",
  file: "File",
  runtime: "Runtime",
  time: "Last call",
  offline: "Offline",
};

function fact(key, text) {
  let entry = at(`fact-${key}`);
  if (entry === null) {
    entry = Object.assign(document.createElement("dd"), { id: `fact-${key}` });
    at("facts").append(Object.assign(document.createElement("dt"), { textContent: LABELS[key] }), entry);
  }
  entry.textContent = text;
}

function showFacts() {
  const { manifest, size, note } = opened;
  const { model, method, files, parity } = manifest;
  const proof = parity.runtimes.find((entry) => entry.runtime === "onnxruntime");
  const parameters = `${model.parameters.toLocaleString("en")} parameters`;
  fact("network", `${model.spec ?? model.class}, ${parameters}, ${model.weights ?? "weights of its own"}`);
  fact("method", `${method.name}, ${method.formula} at every rectifier: ${method.words}`);
  const median = proof?.relative_l2.median.toExponential(1);
  const proven = `${median} relative L2 from live autograd, in the median of ${proof?.samples} inputs`;
  fact("proof", proof ? proven : "none in onnxruntime");
  const { name, bytes, sha256 } = files.onnx;
  fact("file", `${name}, ${(bytes / 2 ** 20).toFixed(1)} MiB, sha256 ${sha256}: checked`);
  fact("runtime", note);
  at("seen-size").textContent = `, ${size.width}\u00a0×\u00a0${size.height}`;
  const notes = [];
  if (model.trained === false) notes.push("The weights are random, so the map means nothing.");
  if (method.name !== "gradient") {
    const why = "they show what the network sees more than what tells classes apart";
    notes.push(`Maps of the ${method.name} method look much alike for every class: ${why}.`);
  }
  at("note").textContent = notes.join(" ");
}

// What the visitor does.

at("file").addEventListener("change", ({ target }) => {
  if (target.files.length) see(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
at("artifact").addEventListener("change", ({ target }) => {
  if (target.files.length) open([...target.files]);
  target.value = "";
});
at("sample").addEventListener("click", () => attempt("Looking…", async (isLatest) => show(await sample(), isLatest)));
at("rows").addEventListener("change", ({ target }) => explain(Number(target.value)));
at("all").addEventListener("change", ({ target }) => explain(Number(target.value)));
at("opacity").addEventListener("input", showOpacity);

function showOpacity() {
  const share = at("opacity").value;
  at("stage").style.setProperty("--map", share / 100);
  at("opacity-text").textContent = `${share}\u00a0%`;
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const files = [...event.dataTransfer.files];
  if (files.length === 0) showError("nothing was dropped that is a file");
  else if (files.some((file) => /\.(json|onnx)$/.test(file.name))) open(files);
  else see(files[0]);
});

// Start. The service worker first, if there can be one: it keeps what is fetched from now on.

async function keepForOffline() {
  if (!("serviceWorker" in navigator)) return "no: this page would have to come over https or from localhost";
  try {
    await navigator.serviceWorker.register("sw.js");
    if (navigator.serviceWorker.controller === null) {
      await Promise.race([
        new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true })),
        new Promise((_, reject) => setTimeout(reject, 10_000, new Error("it does not start"))),
      ]);
    }
    return "";
  } catch (error) {
    return `no: the service worker failed (${error.message})`;
  }
}

async function isKept(urls) {
  for (let attempts = 0; attempts < 50; attempts++) {
    const found = await Promise.all(urls.map((url) => caches.match(url)));
    if (found.every(Boolean)) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

showOpacity(); // browsers put a slider back where it was before a reload
const hindrance = await keepForOffline();
startWorker();
await open(new URL("artifact/", location.href).href);
if (opened !== undefined) {
  const kept = hindrance === "" && (await isKept(opened.fetched));
  const good = "kept on this device; needs no network from now on";
  fact("offline", kept ? good : hindrance || "no: the browser did not keep the files");
}
