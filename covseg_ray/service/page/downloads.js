// The downloads of a film: its mask, the overlay, a DICOM SEG.

import { dicomSegmentation, overlayPicture } from "./api.js";
import { byId, element } from "./dom.js";

const [mask, overlay, seg] = ["download-mask", "download-overlay", "download-seg"].map(byId);
const note = byId("seg-note");

/** `selected` returns the film in view, `report` shows a line. The overlay and the SEG come from the model that segmented the film. */
export function connectDownloads(selected, report) {
  connect(mask, "-infection.png", (film) => film.mask);
  connect(overlay, "-overlay.png", (film, onWait) => overlayPicture(film.file, film.result.model.name, onWait));
  connect(seg, "-infection.dcm", (film, onWait) => dicomSegmentation(film.file, film.result.model.name, onWait));

  function connect(button, ending, make) {
    button.addEventListener("click", async () => {
      const film = selected();
      const name = stem(film.file.name) + ending;
      if (button.ariaBusy === "true") return;
      button.ariaBusy = "true"; // not disabled: a disabled button loses the keyboard focus
      report(`${name}: preparing`);
      try {
        save(await make(film, (line) => report(`${name}: ${line}`)), name);
        report(`${name}: saved`);
      } catch (failure) {
        report(`${name}: ${failure.message}`);
      } finally {
        button.ariaBusy = "false";
      }
    });
  }
}

/** Enables the downloads that the film in view has. */
export function enableDownloads(film) {
  const done = film.state === "done";
  mask.disabled = overlay.disabled = !done;
  seg.disabled = !(done && film.result.dicom);
  note.hidden = !done || film.result.dicom;
}

// Remove known extensions only: the name of a DICOM file is often a UID, full of dots.
function stem(name) {
  return name.replace(/\.(png|jpe?g|tiff?|dcm|dicom)$/i, "");
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still read it
}
