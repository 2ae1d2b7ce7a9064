// The server's HTTP interface: one film a request, with the waits that a busy server and a missing key ask for.

import { anotherKey, currentKey } from "./key.js";

const BUSY_TRIES = 5;
const LONGEST_PAUSE_S = 60;
const PATIENCE_MS = 180_000;

/** What went wrong, in one line for a person; `request` is the id under which the server's log knows it. */
export class Failure extends Error {
  constructor(detail, request = null) {
    super(detail);
    this.request = request;
  }
}

/** The models' names; the first is the default. */
export async function models() {
  const body = await ask("v1/model", {}, () => {});
  return JSON.parse(await body.text()).models.map((model) => model.name);
}

/** The server's JSON for one film. `onWait` gets a line when the request has to wait, and when it goes on. */
export async function segment(file, model, onWait) {
  const body = await ask(address({ picture: "true", model }), posted(file, "application/json"), onWait);
  return JSON.parse(await body.text());
}

/** The film with the infection drawn on it, a PNG. */
export function overlayPicture(file, model, onWait) {
  return ask(address({ view: "overlay", model }), posted(file, "image/png"), onWait);
}

/** The mask as a DICOM SEG; only for a DICOM film. */
export function dicomSegmentation(file, model, onWait) {
  return ask(address({ model }), posted(file, "application/dicom"), onWait);
}

// Addresses are relative, so that the page also works under a path prefix of a proxy.
function address({ model, ...query }) {
  const parameters = new URLSearchParams(model ? { ...query, model } : query);
  return `v1/segment?${parameters}`;
}

function posted(file, accept) {
  return { method: "POST", body: file, headers: { Accept: accept } };
}

async function ask(path, options, onWait) {
  let busy = 0;
  for (;;) {
    const key = currentKey();
    const { answer, body } = await reach(path, options, key);
    if (answer.ok) return body;
    if (answer.status === 401) {
      onWait("waiting for a key");
      await anotherKey(key);
      onWait("working");
    } else if (answer.status === 503 && busy < BUSY_TRIES) {
      busy += 1;
      const seconds = pause(answer.headers.get("Retry-After"));
      onWait(`server busy, next try in ${seconds} s`);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      onWait("working");
    } else {
      throw await failure(answer, body);
    }
  }
}

async function reach(path, options, key) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    const answer = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return { answer, body: await answer.blob() };
  } catch (problem) {
    if (problem.name === "TimeoutError") throw new Failure(`The server did not answer within ${PATIENCE_MS / 1000} s.`);
    throw new Failure("The server cannot be reached, or the file cannot be read.");
  }
}

function pause(retryAfter) {
  const seconds = Number.parseInt(retryAfter, 10);
  return Number.isNaN(seconds) ? 2 : Math.min(Math.max(seconds, 1), LONGEST_PAUSE_S);
}

async function failure(answer, body) {
  const request = answer.headers.get("X-Request-ID");
  try {
    return new Failure(JSON.parse(await body.text()).error.detail, request);
  } catch {
    return new Failure(`The server answered ${answer.status} without saying why.`, request); // a proxy's page, say
  }
}
