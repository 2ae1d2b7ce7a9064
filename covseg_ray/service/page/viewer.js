// The viewer: the film on one canvas, the infection over it on another, and their view controls.

import { byId } from "./dom.js";
import { paint, readMask } from "./mask.js";
import { makeZoom } from "./zoom.js";

const [stage, sheet, message, film, overlay] = ["stage", "sheet", "message", "film", "overlay"].map(byId);
const zoom = makeZoom(stage, sheet, (times) => (byId("zoom-level").textContent = `${times.toFixed(1)} ×`));
const keys = { "+": zoom.larger, "=": zoom.larger, "-": zoom.smaller, 0: zoom.reset }; // "=": a + without the shift key

let turn = 0; // number of the last call of show: pictures are decoded in any order

byId("zoom-in").addEventListener("click", zoom.larger);
byId("zoom-out").addEventListener("click", zoom.smaller);
byId("zoom-reset").addEventListener("click", zoom.reset);
byId("invert").addEventListener("click", (event) => film.classList.toggle("inverted", toggled(event.currentTarget)));
byId("show-overlay").addEventListener("click", (event) => (overlay.hidden = !toggled(event.currentTarget)));
byId("opacity").addEventListener("input", showOpacity);
document.addEventListener("keydown", (event) => {
  const ignored = event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, input[type=password]");
  if (sheet.hidden || ignored || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});
showOpacity(); // a browser may have kept the slider's position over a reload

/** Shows a line instead of a film. */
export function showMessage(text) {
  turn += 1;
  sheet.hidden = true;
  message.textContent = text;
}

/** Shows a segmented film and its mask. */
export async function show({ file, result, picture, ...rest }) {
  const mine = (turn += 1);
  const [bitmap, mask] = await Promise.all([createImageBitmap(picture), readMask({ result, ...rest })]);
  if (mine !== turn) return bitmap.close();
  film.width = bitmap.width;
  film.height = bitmap.height;
  film.getContext("2d").drawImage(bitmap, 0, 0);
  film.setAttribute("aria-label", `Film ${file.name}`);
  bitmap.close();
  paint(overlay, mask, result);
  stage.style.setProperty("--ratio", String(result.width / result.height));
  message.textContent = "";
  sheet.hidden = false;
  zoom.fit(result.width, result.height);
}

function showOpacity() {
  const percent = byId("opacity").value;
  overlay.style.opacity = String(percent / 100);
  byId("opacity-level").textContent = `${percent} %`;
}

function toggled(button) {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  return pressed;
}
