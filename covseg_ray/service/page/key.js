// The API key: requested when the server answers 401, kept for this tab only.

const NAME = "covseg-ray-key";
const form = document.getElementById("key-form");
const input = document.getElementById("key");
const note = document.getElementById("key-note");

let pending = null; // one prompt, however many requests wait for it
let key = stored();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  store(input.value);
  input.value = "";
  form.hidden = true;
  document.getElementById("file").focus();
  pending?.resolve();
  pending = null;
});

export function currentKey() {
  return key;
}

/** Resolves once there is another key than `refused`, the key (or null) that the server has just refused. */
export function nextKey(refused) {
  if (key !== refused) return Promise.resolve();
  if (!pending) {
    let resolve;
    const promise = new Promise((resolver) => (resolve = resolver));
    pending = { resolve, promise };
    store(null);
    note.textContent = (refused ? "The server refused this key. " : "") + "The key is deleted when this tab is closed.";
    form.hidden = false;
    input.focus();
  }
  return pending.promise;
}

function stored() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // storage is blocked: keep the key in memory only
  }
}

function store(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, value);
  } catch {
    // storage is blocked
  }
}
