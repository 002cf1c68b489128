// What all parts of the page use: elements, numbers for people, requests and the key. The parts are one script, joined in
// the order of CMakeLists.txt. Whatever a model, a file's name or an error says becomes a text node, never markup.
"use strict";

const $ = (id) => document.getElementById(id);
const element = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};
const option = (value, text) => {
  const made = element("option", text);
  made.value = value;
  return made;
};
const show = (id, shown) => { $(id).hidden = !shown; };

const state = {
  model: "",
  file: null,      // {id, name, bytes, image}
  upload: null,    // its XMLHttpRequest
  answering: null, // AbortController
  turns: [],       // {question, answer} about this file
  prefixes: new Set(),
};

// --- numbers for people ---

const count = (n) => (Number.isInteger(n) ? n : Math.round(n * 10) / 10).toLocaleString("en");
const percent = (part, whole) => whole > 0 ? Math.round(1000 * part / whole) / 10 + " %" : "–";
const seconds = (s) => s.toFixed(s < 10 ? 2 : 1) + " s";
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; n >= 1024 && unit + 1 < units.length; ++unit) n /= 1024;
  return (unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[unit];
}

// --- requests, and the key ---

const kKey = "purekv-key";
const kFile = "purekv-file";
const key = () => sessionStorage.getItem(kKey) || "";
const withKey = (headers) => key() ? {...headers, Authorization: "Bearer " + key()} : {...headers};

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function refusal(response) {
  let message = "the server answers " + response.status;
  try {
    message = (await response.json()).error.message;
  } catch { /* not ours: the status has to do */ }
  const after = response.headers.get("Retry-After");
  return new Refused(response.status, after ? message + " (in about " + after + " s)" : message);
}

// The response of a request that was taken. Where a key is needed, asks for one and goes on.
async function api(path, options = {}) {
  for (;;) {
    const used = key();
    let response;
    try {
      response = await fetch(path, {...options, headers: withKey(options.headers)});
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Error("The server cannot be reached.");
    }
    if (response.status === 401) {
      if (key() === used) await askForKey();
      continue;
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

const post = (path, body, options = {}) => api(path, {
  ...options, method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});

let asking = null;  // all that wait for a key wait for the same
function askForKey() {
  if (asking) return asking;
  const dialog = $("key-dialog");
  show("key-problem", key() !== "");
  sessionStorage.removeItem(kKey);
  asking = new Promise((resolve, reject) => {
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(kKey, $("key").value);
      dialog.close();
    };
    $("no-key").onclick = () => dialog.close();
    dialog.onclose = () => {
      asking = null;
      $("key").value = "";
      show("forget-key", key() !== "");
      key() ? resolve() : reject(new Error("This server answers nobody without a key. Reload the page to give one."));
    };
  });
  dialog.showModal();
  $("key").focus();
  return asking;
}
