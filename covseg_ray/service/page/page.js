// The page: films come in, at most two at a time go to the server, one is in view.

import { Failure, models, segment } from "./api.js";
import { allowDownloads, offerDownloads } from "./downloads.js";
import { takeFilms } from "./intake.js";
import { fromBase64 } from "./mask.js";
import { percent, showNumbers } from "./numbers.js";
import { makeStrip } from "./strip.js";
import { show, tell } from "./viewer.js";

const AT_ONCE = 2;
const [work, status, progress, model, again] = ["work", "status", "progress", "model", "again"].map(byId);

// A film: {file, state: waiting | working | done | failed, note}, and then either {failure} or {result, mask, picture}.
const films = [];
const queue = [];
const strip = makeStrip(byId("strip"), select);
let running = 0;
let selected = null;

takeFilms(byId("file"), byId("drop"), add, () => say("A folder cannot be sent: drop the films that are in it."));
offerDownloads(() => selected, say);
model.addEventListener("change", () => selected && offerAgain());
again.addEventListener("click", () => {
  byId("stage").focus(); // the button is about to go
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
  if (running >= AT_ONCE || !queue.length) return;
  running += 1;
  outline(queue.shift()).finally(() => {
    running -= 1;
    next();
  });
  next();
}

async function outline(film) {
  change(film, { state: "working", note: "working" });
  try {
    const { mask, picture, ...result } = await segment(film.file, film.model, (note) => change(film, { note }));
    Object.assign(film, { result, mask: fromBase64(mask.data, "image/png"), picture: fromBase64(picture, "image/png") });
    await strip.draw(film);
    change(film, { state: "done" });
    say(`${film.file.name}: ${percent(result.infection_fraction)} of the film outlined as infection.`);
  } catch (problem) {
    const failure = problem instanceof Failure ? problem : new Failure("The server's answer could not be shown.");
    change(film, { state: "failed", failure });
    say(`${film.file.name}: failed. ${failure.message}`);
  }
}

function change(film, changes) {
  Object.assign(film, changes);
  strip.update(film);
  const finished = films.filter(({ state }) => state === "done" || state === "failed").length;
  Object.assign(progress, { max: films.length, value: finished, hidden: finished === films.length });
  if (film === selected) look();
}

function select(film) {
  if (film === selected) return;
  selected = film;
  strip.select(film);
  look();
}

/** Shows the selected film as it now stands. */
function look() {
  const film = selected;
  showNumbers(byId("numbers"), film);
  allowDownloads(film);
  offerAgain();
  if (film.state === "done") show(film).catch(() => film === selected && tell("This film could not be shown."));
  else if (film.state === "failed") tell([film.failure.message, film.failure.request && `Request ${film.failure.request}`].filter(Boolean).join("\n"));
  else tell(film.note);
}

/** A film that failed can be tried again, and one that is done outlined by another model. */
function offerAgain() {
  const other = selected.state === "done" && model.value && model.value !== selected.result.model.name;
  again.hidden = !(selected.state === "failed" || other);
  again.textContent = other ? `Outline with ${model.value}` : "Try again";
}

async function listModels() {
  try {
    const names = await models();
    model.replaceChildren(...names.map((name) => new Option(name, name)));
    byId("model-choice").hidden = names.length < 2;
  } catch (failure) {
    say(`The server's models cannot be listed. ${failure.message}`); // films go to its default then
  }
}

function say(line) {
  const failed = films.filter(({ state }) => state === "failed").length;
  const done = films.filter(({ state }) => state === "done").length;
  const count = films.length > 1 ? ` (${done} of ${films.length} films done${failed ? `, ${failed} failed` : ""})` : "";
  status.textContent = line + count;
}

function byId(id) {
  return document.getElementById(id);
}
