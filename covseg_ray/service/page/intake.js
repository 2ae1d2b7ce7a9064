// How films come onto the page: the file button, drag and drop, paste.

/** `onFiles` gets files; `onFolder` is told when a folder was dropped, which a page cannot post. */
export function takeFilms(input, zone, onFiles, onFolder) {
  input.addEventListener("change", () => {
    onFiles([...input.files]);
    input.value = ""; // or the same file could not be chosen again
  });
  // Anywhere on the page: a film that misses the zone would otherwise replace the page in the browser.
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    receive(event.dataTransfer, onFiles, onFolder);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) receive(event.clipboardData, onFiles, onFolder);
  });
}

function receive(transfer, onFiles, onFolder) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const files = items.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile());
  if (files.length < items.length) onFolder();
  onFiles(files.filter(Boolean));
}
