/**
 * Keeps what the page has fetched, for when there is no network. With a network every answer is fresh from the server,
 * so a new artifact or a new version of the page is never hidden by an old one.
 */

const KEPT = "saliport-web";

/** What comes before this worker is in charge; the runtime and the artifact come after, and are kept as they come. */
const SHELL = [
  "./", "style.css", "page.js", "worker.js", "runtime.js", "picture.js", "colors.js", "saliport.js", "chelsea.png",
];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(KEPT).then((kept) => kept.addAll(SHELL)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === self.location.origin) {
    event.respondWith(freshOrKept(event));
  }
});

async function freshOrKept(event) {
  const kept = await caches.open(KEPT);
  try {
    const response = await fetch(event.request);
    if (response.ok) event.waitUntil(kept.put(event.request, response.clone()));
    return response;
  } catch (error) {
    const found = await kept.match(event.request, { ignoreSearch: event.request.mode === "navigate" });
    if (found === undefined) throw error;
    return found;
  }
}
