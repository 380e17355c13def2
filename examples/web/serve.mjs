/** `npm start [-- ARTIFACT]`: build the page and serve it on http://localhost:8000, or on the port that PORT says. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

import { artifactOf, build } from "./build.mjs";

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".mjs": "text/javascript; charset=utf-8",
  ".onnx": "application/octet-stream",
  ".png": "image/png",
  ".wasm": "application/wasm",
};

/** Serve a folder to this machine alone; returns the server once it listens. Port 0 is any free one. */
export async function serve(folder, port) {
  const server = createServer(async (request, response) => {
    const answer = (status, type, body) => {
      const headers = { "Content-Type": type, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff" };
      response.writeHead(status, headers);
      response.end(request.method === "HEAD" ? undefined : body);
    };
    if (!["GET", "HEAD"].includes(request.method)) return answer(405, "text/plain", "GET and HEAD only\n");
    try {
      const name = decodeURIComponent(request.url.split("?")[0]);
      const path = normalize(join(folder, name.endsWith("/") ? `${name}index.html` : name));
      if (!path.startsWith(folder + sep)) throw new Error("outside the folder");
      answer(200, TYPES[extname(path)] ?? "application/octet-stream", await readFile(path));
    } catch {
      answer(404, "text/plain", "not found\n");
    }
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "localhost", resolve));
  return server;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const server = await serve(await build(artifactOf(process.argv[2])), Number(process.env.PORT ?? 8000));
    console.log(`http://localhost:${server.address().port} (Ctrl+C ends it)`);
  } catch (error) {
    console.error(`serve: ${error.message}`);
    process.exitCode = 2;
  }
}
