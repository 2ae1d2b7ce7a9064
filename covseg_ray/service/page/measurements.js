// The measurements of one film, with their units.

const ZONES = ["upper", "middle", "lower"];
const SIDES = ["left", "right"];
const NO_CHEST_FILM = "This does not look like a frontal chest film: do not rely on the result.";

export function percent(share) {
  if (share === null || share === undefined) return "unknown";
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** Fills `section` with the measurements of a film, or with its state. */
export function showMeasurements(section, film) {
  const heading = element("h2", film.file.name);
  if (film.state !== "done") {
    const line = element("p", film.state === "failed" ? film.failure.message : film.note);
    if (film.state === "failed") line.className = "error";
    section.replaceChildren(heading, line);
    return;
  }
  const { result } = film;
  section.replaceChildren(
    heading,
    ...(result.frontal < result.frontal_level ? [warning(NO_CHEST_FILM)] : []),
    withClass("main", element("p", percent(result.infection_fraction))),
    withClass("soft", element("p", result.infection_fraction > 0 ? "of the film segmented as infection" : "no infection segmented")),
    ...(result.severity ? severity(result.severity) : []),
    element("hr"),
    ...facts(result),
  );
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
  if (result.lung_fraction !== null) rows.unshift(["Lung share of the film", percent(result.lung_fraction)]);
  return [
    element("dl", ...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)])),
    withClass("soft small", element("p", steps.map(([step, ms]) => `${step} ${ms.toFixed(1)} ms`).join(", "))),
  ];
}

function severity({ whole, left, right, zones, plausible }) {
  const sides = { left, right };
  const rows = [
    ...ZONES.map((zone) => [zone, ...SIDES.map((side) => zones[`${side}-${zone}`])]),
    ["whole side", ...SIDES.map((side) => sides[side])],
  ];
  const table = element(
    "table",
    element("caption", "Infected share of the lung"),
    element("thead", element("tr", element("td"), column("image left"), column("image right"))),
    element("tbody", ...rows.map(([name, ...shares]) => element("tr", row(name), ...shares.map((share) => element("td", percent(share)))))),
    element("tfoot", element("tr", row("both lungs"), spanning(2, element("td", percent(whole))))),
  );
  const implausible = "The lung mask does not look like two lungs: do not rely on the lung shares.";
  const sidesNote = "Left and right are the sides of the image: on a frontal film the patient's right lung is usually on the left.";
  return [
    element("hr"),
    ...(plausible ? [] : [warning(implausible)]),
    table,
    withClass("soft small", element("p", sidesNote)),
  ];
}

// Text only, never markup: names come from files and from the server.
function element(tag, ...content) {
  const made = document.createElement(tag);
  made.append(...content);
  return made;
}

function withClass(name, made) {
  made.className = name;
  return made;
}

function warning(text) {
  return withClass("warning", element("p", text));
}

function column(name) {
  const made = element("th", name);
  made.scope = "col";
  return made;
}

function row(name) {
  const made = element("th", name);
  made.scope = "row";
  return made;
}

function spanning(columns, cell) {
  cell.colSpan = columns;
  return cell;
}
