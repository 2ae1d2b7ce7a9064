// The page: films are queued, at most two at a time are sent to the server, one is in view.

import { Failure, models, segment } from "./api.js";
import { byId } from "./dom.js";
import { connectDownloads, enableDownloads } from "./downloads.js";
import { acceptFiles } from "./files.js";
import { fromBase64 } from "./mask.js";
import { percent, showMeasurements } from "./measurements.js";
import { makeStrip } from "./strip.js";
import { show, showMessage } from "./viewer.js";

const MAX_IN_FLIGHT = 2;
const [work, status, progress, model, retry] = ["work", "status", "progress", "model", "retry"].map(byId);

// A film: {file, state: waiting | working | done | failed, note}, and then either {failure} or {result, mask, picture}.
const films = [];
const queue = [];
const strip = makeStrip(byId("strip"), select);
let running = 0;
let selected = null;

acceptFiles(byId("file"), byId("drop"), add, () => report("Cannot upload a folder: drop its files instead."));
connectDownloads(() => selected, report);
model.addEventListener("change", () => selected && updateRetry());
retry.addEventListener("click", () => {
  byId("stage").focus(); // the button is about to disappear
  enqueue(selected);
});
listModels();

function add(files) {
  if (!files.length) return;
  work.classList.remove("empty");
  const added = files.map((file) => ({ file, state: "waiting", note: "waiting" }));
  for (const film of added) {
    films.push(film);
    strip.add(film);
  }
  select(added[0]);
  added.forEach(enqueue);
}

function enqueue(film) {
  change(film, { state: "waiting", note: "waiting", model: model.value || null });
  queue.push(film);
  next();
}

function next() {
  if (running >= MAX_IN_FLIGHT || !queue.length) return;
  running += 1;
  process(queue.shift()).finally(() => {
    running -= 1;
    next();
  });
  next();
}

async function process(film) {
  change(film, { state: "working", note: "processing" });
  try {
    const { mask, picture, ...result } = await segment(film.file, film.model, (note) => change(film, { note }));
    Object.assign(film, { result, mask: fromBase64(mask.data, "image/png"), picture: fromBase64(picture, "image/png") });
    await strip.draw(film);
    change(film, { state: "done" });
    report(`${film.file.name}: ${percent(result.infection_fraction)} of the film segmented as infection.`);
  } catch (problem) {
    const failure = problem instanceof Failure ? problem : new Failure("Cannot display the server's response.");
    change(film, { state: "failed", failure });
    report(`${film.file.name}: failed. ${failure.message}`);
  }
}

function change(film, changes) {
  Object.assign(film, changes);
  strip.update(film);
  const finished = films.filter(({ state }) => state === "done" || state === "failed").length;
  Object.assign(progress, { max: films.length, value: finished, hidden: finished === films.length });
  if (film === selected) render();
}

function select(film) {
  if (film === selected) return;
  selected = film;
  strip.select(film);
  render();
}

/** Shows the selected film in its current state. */
function render() {
  const film = selected;
  showMeasurements(byId("numbers"), film);
  enableDownloads(film);
  updateRetry();
  if (film.state === "done") show(film).catch(() => film === selected && showMessage("Cannot display this film."));
  else if (film.state === "failed") showMessage([film.failure.message, film.failure.request && `Request ${film.failure.request}`].filter(Boolean).join("\n"));
  else showMessage(film.note);
}

/** A failed film can be retried, and a segmented one segmented by another model. */
function updateRetry() {
  const other = selected.state === "done" && model.value && model.value !== selected.result.model.name;
  retry.hidden = !(selected.state === "failed" || other);
  retry.textContent = other ? `Segment with ${model.value}` : "Retry";
}

async function listModels() {
  try {
    const names = await models();
    model.replaceChildren(...names.map((name) => new Option(name, name)));
    byId("model-choice").hidden = names.length < 2;
  } catch (failure) {
    report(`Cannot list the server's models. ${failure.message}`); // the server then uses its default model
  }
}

function report(line) {
  const failed = films.filter(({ state }) => state === "failed").length;
  const done = films.filter(({ state }) => state === "done").length;
  const count = films.length > 1 ? ` (${done} of ${films.length} films done${failed ? `, ${failed} failed` : ""})` : "";
  status.textContent = line + count;
}
