// Films enter the page by the file button, drag and drop, or paste.

/** `onFiles` gets the files; `onFolder` is called when a folder is dropped, which a page cannot upload. */
export function acceptFiles(input, zone, onFiles, onFolder) {
  input.addEventListener("change", () => {
    onFiles([...input.files]);
    input.value = ""; // otherwise the same file cannot be chosen again
  });
  // On the whole page: the browser would open a file dropped beside the zone in place of the page.
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
