// The server's HTTP interface: one film per request; waits while the server is busy or a key is missing.

import { currentKey, nextKey } from "./key.js";

const BUSY_TRIES = 5;
const MAX_DELAY_S = 60;
const TIMEOUT_MS = 180_000;

/** A failure in one line for the user; `request` is its id in the server's log. */
export class Failure extends Error {
  constructor(detail, request = null) {
    super(detail);
    this.request = request;
  }
}

/** The models' names; the first is the default. */
export async function models() {
  const body = await send("v1/model", {}, () => {});
  return JSON.parse(await body.text()).models.map((model) => model.name);
}

/** The server's JSON for one film. `onWait` gets a line when the request waits and when it continues. */
export async function segment(file, model, onWait) {
  const body = await send(address({ picture: "true", model }), post(file, "application/json"), onWait);
  return JSON.parse(await body.text());
}

/** The film with the infection drawn on it, a PNG. */
export function overlayPicture(file, model, onWait) {
  return send(address({ view: "overlay", model }), post(file, "image/png"), onWait);
}

/** The mask as a DICOM SEG; only for a DICOM film. */
export function dicomSegmentation(file, model, onWait) {
  return send(address({ model }), post(file, "application/dicom"), onWait);
}

// Addresses are relative, so that the page also works under a path prefix of a proxy.
function address({ model, ...query }) {
  const parameters = new URLSearchParams(model ? { ...query, model } : query);
  return `v1/segment?${parameters}`;
}

function post(file, accept) {
  return { method: "POST", body: file, headers: { Accept: accept } };
}

async function send(path, options, onWait) {
  let busy = 0;
  for (;;) {
    const key = currentKey();
    const { response, body } = await request(path, options, key);
    if (response.ok) return body;
    if (response.status === 401) {
      onWait("waiting for an API key");
      await nextKey(key);
      onWait("processing");
    } else if (response.status === 503 && busy < BUSY_TRIES) {
      busy += 1;
      const seconds = retryDelay(response.headers.get("Retry-After"));
      onWait(`server busy, retry in ${seconds} s`);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      onWait("processing");
    } else {
      throw await failure(response, body);
    }
  }
}

async function request(path, options, key) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    return { response, body: await response.blob() };
  } catch (problem) {
    if (problem.name === "TimeoutError") throw new Failure(`No response from the server within ${TIMEOUT_MS / 1000} s.`);
    throw new Failure("Cannot reach the server, or cannot read the file.");
  }
}

function retryDelay(retryAfter) {
  const seconds = Number.parseInt(retryAfter, 10);
  return Number.isNaN(seconds) ? 2 : Math.min(Math.max(seconds, 1), MAX_DELAY_S);
}

async function failure(response, body) {
  const request = response.headers.get("X-Request-ID");
  try {
    return new Failure(JSON.parse(await body.text()).error.detail, request);
  } catch {
    return new Failure(`The server answered with status ${response.status} and no reason.`, request); // a proxy's page, for example
  }
}
