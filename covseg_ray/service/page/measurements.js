// The measurements of one film, with their units.

import { element } from "./dom.js";

const ZONES = ["upper", "middle", "lower"];
const SIDES = ["left", "right"];
const EXPECTED_IOU = "Estimate, from the model's own probabilities, of the overlap of this mask with that of a reader: intersection over union, 0 to 1.";
const NO_CHEST_FILM = "This does not look like a frontal chest film: do not rely on the result.";

export function percent(share) {
  if (share === null || share === undefined) return "unknown";
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** Fills `section` with the measurements of a film, or with its state. */
export function showMeasurements(section, film) {
  const heading = element("h2", {}, film.file.name);
  if (film.state === "failed") section.replaceChildren(heading, line("error", film.failure.message));
  else if (film.state !== "done") section.replaceChildren(heading, element("p", {}, film.note));
  else section.replaceChildren(heading, ...measurements(film.result));
}

function measurements(result) {
  return [
    ...(result.frontal < result.frontal_level ? [line("warning", NO_CHEST_FILM)] : []),
    line("main", percent(result.infection_fraction)),
    line("soft", result.infection_fraction > 0 ? "of the film segmented as infection" : "no infection segmented"),
    ...(result.severity ? severity(result.severity) : []),
    element("hr"),
    ...facts(result),
  ];
}

function facts(result) {
  const steps = Object.entries(result.timing_ms);
  const total = steps.reduce((sum, [, ms]) => sum + ms, 0);
  const rows = [
    ["Width × height", `${result.width} × ${result.height} pixels`],
    ["Similarity to frontal chest films, 0 to 1", result.frontal.toFixed(3)],
    ["Model", result.model.name],
    ["Model id", result.model.model_id],
    ["Server time", `${total.toFixed(0)} ms`],
  ];
  if (result.expected_iou !== null) rows.unshift(["Expected IoU", result.expected_iou.toFixed(2), EXPECTED_IOU]);
  if (result.lung_fraction !== null) rows.unshift(["Lung share of the film", percent(result.lung_fraction)]);
  const row = ([name, value, title = ""]) => [element("dt", { title }, name), element("dd", { title }, value)];
  return [
    element("dl", {}, ...rows.flatMap(row)),
    line("soft small", steps.map(([step, ms]) => `${step} ${ms.toFixed(1)} ms`).join(", ")),
  ];
}

function severity({ whole, left, right, zones, plausible }) {
  const rows = [
    ...ZONES.map((zone) => [zone, ...SIDES.map((side) => zones[`${side}-${zone}`])]),
    ["whole side", left, right],
  ];
  const header = (scope, name) => element("th", { scope }, name);
  const cells = (shares) => shares.map((share) => element("td", {}, percent(share)));
  const table = element(
    "table",
    {},
    element("caption", {}, "Infected share of the lung"),
    element("thead", {}, element("tr", {}, element("td"), header("col", "image left"), header("col", "image right"))),
    element("tbody", {}, ...rows.map(([name, ...shares]) => element("tr", {}, header("row", name), ...cells(shares)))),
    element("tfoot", {}, element("tr", {}, header("row", "both lungs"), element("td", { colSpan: 2 }, percent(whole)))),
  );
  const implausible = "The lung mask does not look like two lungs: do not rely on the lung shares.";
  const sides = "Left and right are the sides of the image: on a frontal film the patient's right lung is usually on the left.";
  return [element("hr"), ...(plausible ? [] : [line("warning", implausible)]), table, line("soft small", sides)];
}

function line(className, text) {
  return element("p", { className }, text);
}
