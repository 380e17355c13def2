/**
 * `node test/browser.mjs CONFIG.json REPORT.json`: a visit of the page in Chromium, written down for pytest to judge.
 *
 * CONFIG: `artifact`, the folder to show; `small`, another one; `picture`, a PNG to drop; `flat`, an artifact that does
 * not take pictures; `broken`, the folders of artifacts that lack something, by name; `work`, a folder to write into.
 * REPORT: what each step saw, by the step's name.
 */

import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";

import { chromium } from "playwright-core";

import { build } from "../build.mjs";
import { serve } from "../serve.mjs";

const FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan,WebGPU"];

const [config, output] = process.argv.slice(2);
const { artifact, small, picture, flat, broken, work } = JSON.parse(await readFile(config, "utf8"));
const report = {};

// Two sites whose folders share the runtime: the artifact as it is, and with one bit of its model flipped.
const site = join(work, "site");
await mkdir(site, { recursive: true });
await build(artifact, join(site, "good"));
await cp(join(site, "good"), join(site, "changed"), { recursive: true, filter: (path) => basename(path) !== "ort" });
await symlink(join(site, "good", "ort"), join(site, "changed", "ort"));
const damaged = await readFile(join(site, "changed", "artifact", "model.onnx"));
damaged[damaged.length >> 1] ^= 1;
await writeFile(join(site, "changed", "artifact", "model.onnx"), damaged);

const server = await serve(site, 0);
const home = `http://localhost:${server.address().port}`;
const served = new Set();
server.on("request", (request) => served.add(request.url));

const launch = (...flags) => chromium.launch({ executablePath: "/usr/bin/chromium", args: [...FLAGS, ...flags] });
const browser = await launch("--disable-gpu");
const requested = new Set();
const complaints = [];

async function visit(place, options = {}, by = browser) {
  const context = await by.newContext({ viewport: { width: 1200, height: 940 }, ...options });
  context.on("request", (request) => requested.add(new URL(request.url()).origin));
  context.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  context.on("weberror", (error) => complaints.push(error.error().message));
  context.setDefaultTimeout(120_000); // a busy machine is slow
  const page = await context.newPage();
  await page.goto(`${home}/${place}/`);
  await settle(page);
  return page;
}

/** Wait until the page has an answer, or an error. */
async function settle(page) {
  await page.waitForSelector('#stage[aria-busy="false"]');
}

/** Do something that starts a calculation, and wait for its end. */
async function after(page, action) {
  await page.evaluate(() => {
    window.finished = new Promise((resolve) => {
      new MutationObserver((_, observer) => {
        if (document.getElementById("stage").getAttribute("aria-busy") === "false") {
          observer.disconnect();
          resolve();
        }
      }).observe(document.getElementById("stage"), { attributes: true, attributeFilter: ["aria-busy"] });
    });
  });
  await action();
  await page.evaluate(() => window.finished);
}

/** What a visitor sees and hears. */
function look(page) {
  return page.evaluate(() => {
    const at = (id) => document.getElementById(id);
    const pixels = (canvas) => {
      const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return { width, height, rgba: btoa(String.fromCharCode(...data)) };
    };
    return {
      prediction: at("prediction").innerText,
      explained: at("explained").innerText,
      error: at("error").hidden ? "" : at("error").innerText,
      note: at("note").textContent,
      rows: [...document.querySelectorAll(".row")].map((row) => ({
        name: row.querySelector(".name").textContent,
        share: row.querySelector(".share").textContent,
        bar: row.querySelector(".bar").getBoundingClientRect().width / row.getBoundingClientRect().width,
        checked: row.querySelector("input").checked,
        height: row.getBoundingClientRect().height,
      })),
      facts: Object.fromEntries([...document.querySelectorAll("dd")].map((dd) => [dd.id.slice(5), dd.textContent])),
      map: pixels(at("map")),
      overlay: pixels(at("overlay")),
      seen: pixels(at("seen")),
      sameMap: at("overlay").width === at("map").width,
      classes: at("more").hidden ? 0 : at("all").options.length,
    };
  });
}

const choose = (page, name) => after(page, () => page.getByRole("radio", { name: new RegExp(`^${name} `) }).check());
const openFiles = (page, files) => after(page, () => page.setInputFiles("#artifact", files));
const filesOf = (folder) => ["manifest.json", "model.onnx"].map((name) => join(folder, name));

async function drop(page, path, name) {
  const bytes = (await readFile(path)).toString("base64");
  await after(page, () => page.evaluate(([base64, fileName]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], fileName));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, [bytes, name]));
}

const steps = {
  async desktop() {
    const page = await visit("good");
    report.first = await look(page);
    report.mainThread = await page.evaluate(() => performance.getEntriesByType("resource").map((entry) => entry.name));
    report.speech = await page.evaluate(() => {
      const region = document.getElementById("status");
      return [region.getAttribute("role"), region.getAttribute("aria-live"), region.innerText];
    });
    await page.screenshot({ path: join(work, "desktop.png") });

    await choose(page, "dog");
    report.dog = await look(page);

    report.slider = [];
    for (const value of [0, 30, 100]) {
      await page.fill("#opacity", String(value));
      const seen = await page.evaluate(() => [
        Number(getComputedStyle(document.getElementById("overlay")).opacity),
        document.getElementById("opacity-text").innerText,
      ]);
      report.slider.push([value, ...seen]);
    }
    await page.fill("#opacity", "70");

    await drop(page, picture, "dropped.png");
    report.dropped = await look(page);

    const words = { name: "words.png", mimeType: "image/png", buffer: Buffer.from("these are words") };
    await after(page, () => page.setInputFiles("#file", words));
    report.notAnImage = await look(page);
    await after(page, () => page.click("#sample"));
    report.sampleAgain = await look(page);

    await openFiles(page, filesOf(flat));
    report.notForPictures = await look(page);
    await openFiles(page, filesOf(artifact).slice(0, 1));
    report.halfAnArtifact = await look(page);
    report.broken = {};
    for (const [name, folder] of Object.entries(broken)) {
      await openFiles(page, filesOf(folder));
      report.broken[name] = await look(page);
    }
    await choose(page, "dog");
    report.dogAgain = await look(page);
    await openFiles(page, filesOf(small));
    report.small = await look(page);
    await after(page, () => page.selectOption("#all", "11"));
    report.smallEleven = await look(page);
    await page.context().close();
  },

  async keyboard() {
    const page = await visit("good");
    report.keyboard = [];
    for (let count = 0; count < 12; count++) {
      await page.keyboard.press("Tab");
      const stop = await page.evaluate(() => {
        const element = document.activeElement;
        const hasRing = (part) => part !== null && getComputedStyle(part).outlineStyle === "solid";
        const ring = hasRing(element) || hasRing(element.closest("label"));
        const name = element.id || element.name || element.tagName.toLowerCase();
        const label = element.getAttribute("aria-label") ?? element.closest("label")?.innerText ?? element.innerText;
        return { name, ring, label };
      });
      if (stop.name === "body") break;
      report.keyboard.push(stop);
      if (stop.name === "opacity") await page.keyboard.press("ArrowRight");
      if (stop.name === "sample") await after(page, () => page.keyboard.press("Enter"));
      if (stop.name === "class") await after(page, () => page.keyboard.press("ArrowDown"));
      if (stop.name === "summary") await page.keyboard.press("Enter");
    }
    report.keyboardEnd = { ...(await look(page)), opacity: await page.inputValue("#opacity") };
    await page.context().close();
  },

  async phone() {
    const options = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
    for (const [name, colorScheme] of [["phone", "light"], ["phoneDark", "dark"]]) {
      const page = await visit("good", { ...options, colorScheme });
      await page.tap(".row:nth-child(2)");
      await page.waitForFunction(() => document.querySelector(".row:nth-child(2) input").checked);
      await settle(page);
      await page.click("summary");
      report[name] = await page.evaluate(() => {
        const style = (selector) => getComputedStyle(document.querySelector(selector));
        const targets = [...document.querySelectorAll(".row, .choose .button")];
        const sizes = ["body", ".hint", "figcaption", ".share", "dl"].map((part) => parseFloat(style(part).fontSize));
        return {
          width: document.documentElement.scrollWidth,
          touch: Math.min(...targets.map((part) => part.getBoundingClientRect().height)),
          paper: style("body").backgroundColor,
          texts: ["body", ".hint", ".explained", "figcaption", "dt"].map((selector) => style(selector).color),
          button: [style(".primary").color, style(".primary").backgroundColor],
          size: Math.min(...sizes),
        };
      });
      await page.screenshot({ path: join(work, `${name}.png`), fullPage: true });
      await page.context().close();
    }
  },

  async changed() {
    const page = await visit("changed");
    report.changed = await look(page);
    await page.screenshot({ path: join(work, "changed.png") });
    await page.context().close();
  },

  async gpu() {
    const software = await launch(...SOFTWARE_GPU);
    await build(small, join(site, "gpu"));
    const page = await visit("gpu", {}, software);
    report.gpu = await look(page);
    await page.goto(`${home}/gpu/?runtime=wasm`);
    await settle(page);
    report.gpuDeclined = await look(page);
    await software.close();
  },

  async offline() {
    const page = await visit("good");
    await page.waitForSelector("#fact-offline", { state: "attached" });
    const before = await look(page);
    report.requested = [...requested];
    report.served = [...served];
    report.complaints = [...complaints];
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await page.reload();
    await settle(page);
    report.offline = await look(page);
    await choose(page, "dog");
    report.offlineDog = await look(page);
    report.offlineBefore = before.facts.offline;
  },
};

report.home = home;
try {
  for (const step of Object.values(steps)) await step();
} finally {
  await browser.close();
  server.close();
}
await writeFile(output, JSON.stringify(report));
