// Zoom and pan of one sheet on a stage: wheel, pinch, drag and keys.

const MAX_ZOOM = 16;
const STEP = 1.25;
const WHEEL = 0.0015; // logarithm of the zoom factor per pixel of the wheel

/** `onChange` gets the zoom; at 1 the whole film fits the stage. */
export function makeZoom(stage, sheet, onChange) {
  const film = { width: 1, height: 1 };
  const view = { zoom: 1, x: 0, y: 0 }; // x, y: from the stage's centre to the sheet's, in CSS pixels
  const pointers = new Map();

  function place() {
    const fit = Math.min(stage.clientWidth / film.width, stage.clientHeight / film.height);
    const room = (side, length) => Math.max(0, (fit * film[side] * view.zoom - length) / 2);
    view.x = clamp(view.x, room("width", stage.clientWidth));
    view.y = clamp(view.y, room("height", stage.clientHeight));
    sheet.style.width = `${fit * film.width}px`;
    sheet.style.height = `${fit * film.height}px`;
    sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    stage.classList.toggle("zoomed", view.zoom > 1);
    stage.classList.toggle("near", fit * view.zoom > 1);
    onChange(view.zoom);
  }

  function zoomBy(factor, point = { x: 0, y: 0 }) {
    const zoom = Math.min(Math.max(view.zoom * factor, 1), MAX_ZOOM);
    view.x = point.x - ((point.x - view.x) * zoom) / view.zoom; // keep the point under the cursor in place
    view.y = point.y - ((point.y - view.y) * zoom) / view.zoom;
    view.zoom = zoom;
    place();
  }

  function panBy(x, y) {
    view.x += x;
    view.y += y;
    place();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: 0, y: 0 });
    place();
  }

  function fromCentre(event) {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 };
  }

  function moved(event) {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = fromCentre(event);
    pointers.set(event.pointerId, now);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      zoomBy(distance(now, other) / Math.max(1, distance(before, other)), midpoint(before, other));
      panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else if (view.zoom > 1) {
      panBy(now.x - before.x, now.y - before.y);
    }
  }

  stage.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && view.zoom === 1) return; // already fits: let the page scroll
    event.preventDefault();
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * 40;
    zoomBy(Math.exp(-pixels * WHEEL), fromCentre(event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, fromCentre(event));
  });
  stage.addEventListener("pointermove", moved);
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }
  stage.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (view.zoom === 1 || (!x && !y) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    panBy((x * stage.clientWidth) / 10, (y * stage.clientHeight) / 10);
  });
  new ResizeObserver(place).observe(stage);

  return {
    larger: () => zoomBy(STEP),
    smaller: () => zoomBy(1 / STEP),
    reset,
    /** Shows a film of another size, fitted to the stage. */
    fit(width, height) {
      Object.assign(film, { width, height });
      reset();
    },
  };
}

const clamp = (value, most) => Math.min(Math.max(value, -most), most);
const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
const midpoint = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
