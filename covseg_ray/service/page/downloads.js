// What can be taken home of a film: its mask, the overlay, a DICOM SEG.

import { dicomSegmentation, overlayPicture } from "./api.js";

const [mask, overlay, seg] = ["download-mask", "download-overlay", "download-seg"].map((id) => document.getElementById(id));
const note = document.getElementById("seg-note");

/** `selected` gives the film in view, `say` shows a line. The server's files are made by the model that outlined the film. */
export function offerDownloads(selected, say) {
  offer(mask, "-infection.png", (film) => film.mask);
  offer(overlay, "-overlay.png", (film, onWait) => overlayPicture(film.file, film.result.model.name, onWait));
  offer(seg, "-infection.dcm", (film, onWait) => dicomSegmentation(film.file, film.result.model.name, onWait));

  function offer(button, ending, make) {
    button.addEventListener("click", async () => {
      const film = selected();
      const name = stem(film.file.name) + ending;
      if (button.ariaBusy === "true") return;
      button.ariaBusy = "true"; // not disabled: that would take the keyboard's focus away
      say(`${name}: preparing`);
      try {
        save(await make(film, (line) => say(`${name}: ${line}`)), name);
        say(`${name}: saved`);
      } catch (failure) {
        say(`${name}: ${failure.message}`);
      } finally {
        button.ariaBusy = "false";
      }
    });
  }
}

/** Which downloads the film in view has. */
export function allowDownloads(film) {
  const done = film.state === "done";
  mask.disabled = overlay.disabled = !done;
  seg.disabled = !(done && film.result.dicom);
  note.hidden = !done || film.result.dicom;
}

// Only a known ending is cut off: a DICOM file is often named by a UID, full of dots.
function stem(name) {
  return name.replace(/\.(png|jpe?g|tiff?|dcm|dicom)$/i, "");
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be reading it
}
