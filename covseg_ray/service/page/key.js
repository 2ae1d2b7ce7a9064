// The API key: asked for when the server answers 401, kept for this tab only.

const NAME = "covseg-ray-key";
const form = document.getElementById("key-form");
const input = document.getElementById("key");
const note = document.getElementById("key-note");

let asked = null; // one question at a time, however many requests wait for its answer
let kept = stored();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  keep(input.value);
  input.value = "";
  form.hidden = true;
  document.getElementById("file").focus();
  asked?.answer();
  asked = null;
});

export function currentKey() {
  return kept;
}

/** Resolves once there is another key than `refused`, the one (or none) that the server has just turned down. */
export function anotherKey(refused) {
  if (kept !== refused) return Promise.resolve();
  if (!asked) {
    let answer;
    const answered = new Promise((resolve) => (answer = resolve));
    asked = { answer, answered };
    keep(null);
    note.textContent = (refused ? "The server did not accept that key. " : "") + "It is forgotten when this tab is closed.";
    form.hidden = false;
    input.focus();
  }
  return asked.answered;
}

function stored() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // storage is blocked: the key lives as long as the page
  }
}

function keep(key) {
  kept = key;
  try {
    if (key === null) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, key);
  } catch {
    // as above
  }
}
