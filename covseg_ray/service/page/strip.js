// The strip: the thumbnail and state of every film; one film is selected.

import { element } from "./dom.js";
import { paint, readMask } from "./mask.js";
import { percent } from "./measurements.js";

const SIDE = 240; // twice the size shown, for dense screens
const MOVES = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

/** Makes `list` a list box; `onSelect` gets the film that is chosen by mouse, touch or key. */
export function makeStrip(list, onSelect) {
  const films = [];
  const items = new Map();
  let selected = null;

  list.addEventListener("keydown", (event) => {
    if (!(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const wanted = Math.min(Math.max(films.indexOf(selected) + MOVES[event.key], 0), films.length - 1);
    onSelect(films[wanted]);
    items.get(films[wanted]).focus();
  });

  function add(film) {
    const labels = [element("span", { className: "name" }, film.file.name), element("span", { className: "state" })];
    const item = element("li", { title: film.file.name, tabIndex: -1 }, element("canvas"), ...labels);
    item.setAttribute("role", "option");
    item.addEventListener("click", () => onSelect(film));
    films.push(film);
    items.set(film, item);
    list.append(item);
    update(film);
  }

  function update(film) {
    const item = items.get(film);
    item.className = film.state;
    item.querySelector(".state").textContent = stateOf(film);
  }

  function select(film) {
    selected = film;
    for (const [other, item] of items) {
      item.setAttribute("aria-selected", String(other === film));
      item.tabIndex = other === film ? 0 : -1; // the tab key reaches the selected film only
    }
    items.get(film).scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Draws a film's thumbnail; fails as `readMask` does. */
  async function draw(film) {
    const { width, height } = film.result;
    const [bitmap, mask] = await Promise.all([createImageBitmap(film.picture), readMask(film)]);
    const overlay = element("canvas");
    paint(overlay, mask, film.result);
    const canvas = items.get(film).querySelector("canvas");
    const scale = SIDE / Math.max(width, height);
    Object.assign(canvas, { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    for (const layer of [bitmap, overlay]) context.drawImage(layer, 0, 0, canvas.width, canvas.height);
    bitmap.close();
  }

  return { add, update, select, draw };
}

function stateOf(film) {
  if (film.state === "done") return `done, ${percent(film.result.infection_fraction)}`;
  return film.state === "failed" ? `failed: ${film.failure.message}` : film.note;
}
