// The page of `purekv serve`: uploads a video, asks about it, and shows what of its cache was kept. Whatever a model, a
// file's name or an error says becomes a text node, never markup.
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

// --- the file ---

function fileProblem(text) {
  $("file-problem").textContent = text;
  show("file-problem", text !== "");
}

function showFile() {
  show("choose", !state.file && !state.upload);
  show("uploading", state.upload !== null);
  show("uploaded", state.file !== null);
  if (state.file) {
    $("file-name").textContent = state.file.name;
    $("file-size").textContent = bytes(state.file.bytes);
  }
  $("frames").disabled = state.file !== null && state.file.image;
  state.file ? sessionStorage.setItem(kFile, JSON.stringify(state.file)) : sessionStorage.removeItem(kFile);
  showCostSoon();
}

// fetch() does not tell how much of a body has gone.
function sendFile(file) {
  const request = new XMLHttpRequest();
  state.upload = request;
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", "vision");
    form.append("file", file);
    request.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(withKey({}))) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) $("upload-progress").value = event.loaded / event.total;
    };
    request.onload = () => {
      if (request.status === 200) return resolve(request.response);
      reject(new Error(request.response?.error?.message ?? "the server answers " + request.status));
    };
    request.onerror = () => reject(new Error("The upload broke off: the server ended it, or cannot be reached."));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    request.send(form);
  });
}

async function takeFile(file) {
  if (state.upload || state.answering) return;
  fileProblem("");
  try {
    await api("/v1/models");  // is the key good? A large body would not be read to its end to hear that
    await removeFile();
    $("upload-name").textContent = "Uploading " + file.name;
    $("upload-progress").value = 0;
    const sent = sendFile(file);
    showFile();
    $("cancel-upload").focus();
    const stored = await sent;
    state.file = {id: stored.id, name: file.name, bytes: stored.bytes, image: file.type.startsWith("image/")};
  } catch (problem) {
    fileProblem(problem.name === "AbortError" ? "The upload was cancelled." : problem.message);
  }
  state.upload = null;
  $("file").value = "";
  showFile();
  (state.file ? $("question") : $("file")).focus();
}

// The server forgets the file and what was read of it.
async function removeFile() {
  const gone = [...state.prefixes].map((id) => "/v1/purekv/prefixes/" + id);
  if (state.file) gone.push("/v1/files/" + state.file.id);
  state.file = null;
  state.turns = [];
  state.prefixes.clear();
  hideKept();
  showFile();
  for (const path of gone) await api(path, {method: "DELETE"}).catch(() => {});  // gone already
}

async function findFileAgain() {
  const text = sessionStorage.getItem(kFile);
  if (!text) return;
  const file = JSON.parse(text);
  try {
    await api("/v1/files/" + encodeURIComponent(file.id));
    state.file = file;
  } catch { /* the server has been started anew */ }
  showFile();
}

// --- what is asked ---

function cacheSettings() {
  const policy = $("policy").value;
  if (!policy) return {};
  return policy === "full" ? {policy} : {policy, budget: Number($("budget").value) / 100};
}

function chatBody(question) {
  const messages = [];
  for (const turn of $("follow").checked ? state.turns : []) {
    messages.push({role: "user", content: [{type: "text", text: turn.question}]},
                  {role: "assistant", content: turn.answer});
  }
  messages.push({role: "user", content: [{type: "text", text: question}]});
  const body = {model: state.model, messages, max_tokens: Number($("length").value) || 256, purekv: cacheSettings()};
  if (state.file) messages[0].content.unshift({type: "file", file: {file_id: state.file.id}});
  const frames = Number($("frames").value);
  if (state.file && !state.file.image && frames > 0) body.mm_processor_kwargs = {max_frames: frames};
  return body;
}

// --- the cost, before anything is computed ---

let costTimer = 0, costs = 0;
function showCostSoon() {
  clearTimeout(costTimer);
  costTimer = setTimeout(showCost, 250);
}

async function showCost() {
  const mine = ++costs;
  if (!state.file || !state.model) return $("cost").replaceChildren();
  let content;
  try {
    content = costTable(await (await post("/v1/purekv/cost", chatBody($("question").value || "?"))).json());
  } catch (problem) {
    content = [element("p", "What it costs is not known: " + problem.message, "problem")];
  }
  if (mine === costs) $("cost").replaceChildren(...content);
}

function costTable(cost) {
  const chosen = cacheSettings();
  const table = element("table");
  table.append(element("caption", "Memory of the cache"));
  const head = table.createTHead().insertRow();
  for (const text of ["budget", "kept", "at most"]) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const rows = table.createTBody();
  for (const one of cost.kept) {
    const row = rows.insertRow();
    // As the server is set, a budget may be of tokens or bytes.
    const name = element("th", one.budget !== undefined ? Math.round(one.budget * 1000) / 10 + " %"
        : one.tokens !== undefined ? count(one.tokens) + " tokens" : one.bytes !== undefined ? bytes(one.bytes) : "full");
    name.scope = "row";
    row.append(name, element("td", bytes(one.kv_bytes)), element("td", bytes(one.peak_bytes) + (one.fits ? "" : ", too much")));
    if (Math.abs(one.budget - chosen.budget) < 1e-9) row.className = "chosen";
  }
  let text = count(cost.prompt_tokens) + " tokens to read, " + count(cost.visual_tokens) + " of them seen";
  if (typeof cost.seconds === "number") text += "; about " + seconds(cost.seconds);
  return [element("p", text, "soft"), table];
}

// --- asking ---

async function* streamed(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      if (rest.startsWith("data: ")) yield rest.slice(6, end);
    }
  }
}

const kStages = {queue: "Waiting for its turn", media: "Decoding", vision: "Looking", prefill: "Reading", decode: "Answering"};
function showStage(stage, done, total) {
  const text = stage ? (kStages[stage] ?? stage) + " …" : "";
  if ($("status").textContent !== text) $("status").textContent = text;  // said aloud once, not at every step
  show("stage", total > 0);
  if (total > 0) $("stage").value = done / total;
}

// The article of a question, with room for its answer.
function newTurn(question) {
  const article = element("article");
  const answer = element("p", undefined, "answer");
  const text = document.createTextNode("");
  answer.append(text);
  answer.setAttribute("aria-busy", "true");
  article.append(element("h3", question), answer);
  $("log").append(article);
  article.scrollIntoView({block: "nearest"});
  return {article, answer, text};
}

async function ask(question) {
  const turn = newTurn(question);
  state.answering = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  showStage("queue", 0, 0);
  let usage = null, whole = false;
  try {
    const body = chatBody(question);
    Object.assign(body, {stream: true, stream_options: {include_usage: true}});
    body.purekv.progress = true;
    const started = performance.now();
    let first = null;
    const response = await post("/v1/chat/completions", body, {signal: state.answering.signal});
    for await (const data of streamed(response.body)) {
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.purekv) showStage(chunk.purekv.stage, chunk.purekv.done, chunk.purekv.total);
      if (chunk.usage) usage = chunk.usage;
      const piece = chunk.choices[0]?.delta?.content;
      if (piece) {
        first ??= performance.now() - started;
        turn.text.appendData(piece);
        showStage("decode", 0, 0);
      }
    }
    if (!whole) throw new Error("The answer broke off.");
    if (usage) turn.article.append(facts(usage, first));
    state.turns.push({question, answer: turn.text.data});
  } catch (problem) {
    turn.article.append(element("p", problem.name === "AbortError" ? "Stopped." : problem.message, "problem"));
  }
  turn.answer.removeAttribute("aria-busy");
  state.answering = null;
  $("send").disabled = false;
  $("stop").disabled = true;
  showStage("", 0, 0);
  if (usage?.purekv?.prefix) {
    if (state.file) state.prefixes.add(usage.purekv.prefix);
    await showKept(usage.purekv.prefix);
  }
}

// What an answer took.
function facts(usage, first) {
  const list = element("dl");
  const add = (name, text, className) => list.append(element("dt", name), element("dd", text, className));
  const own = usage.purekv ?? {}, cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  add("Read", count(usage.prompt_tokens - cached) + " of " + count(usage.prompt_tokens) + " tokens" +
      (cached > 0 ? "; " + count(cached) + " were cached" : ""), "cached");
  if (own.tokens_full !== undefined) {
    add("Kept", count(own.tokens_kept_mean) + " of " + count(own.tokens_full) + " tokens (" +
        percent(own.tokens_kept_mean, own.tokens_full) + ") in a head, on average", "tokens");
    add("Cache", bytes(own.kv_bytes_kept) + " of " + bytes(own.kv_bytes_full) + ", at most " + bytes(own.kv_bytes_peak), "bytes");
  }
  for (const one of own.media ?? []) {
    add("Seen", (one.kind === "video" ? count(one.frames) + " frames, " : "") + count(one.tokens) + " tokens");
  }
  if (own.time) {
    const {media_s, vision_s, prefill_s, decode_s} = own.time;
    add("Time", "decoding " + seconds(media_s) + ", looking " + seconds(vision_s) + ", reading " + seconds(prefill_s) + ", answering " +
        seconds(decode_s) + (first === null ? "" : "; first words after " + seconds(first / 1000)), "time");
  }
  return list;
}

// --- what was kept ---

const kDark = 0.8;   // of a cell that no head has
const kMean = "mean";
let kept = null;     // what the server says of a prefix, and {id, bits: [layer][head] bit sets, frames}
let frameWatch = null;

const has = (bits, i) => (bits[i >> 3] >> (i & 7)) & 1;

// The sets lie one behind the other. A layer that reads another's cache may have none.
function bitSets({kept: text, counts, visual_tokens}) {
  const all = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), size = Math.ceil(visual_tokens / 8);
  let next = 0;
  return counts.map((heads) => heads.map(() => all.subarray(next, next += size)));
}

function hideKept() {
  frameWatch?.disconnect();
  for (const frame of kept?.frames ?? []) if (frame.url) URL.revokeObjectURL(frame.url);
  kept = null;
  $("frames-kept").replaceChildren();
  show("kept", false);
}

async function showKept(id) {
  if (kept?.id === id) return;
  hideKept();
  let found;
  try {
    found = await (await api("/v1/purekv/prefixes/" + encodeURIComponent(id) + "/kept")).json();
  } catch (problem) {
    if (problem.status === 404) return;  // not kept any more
    $("status").textContent = problem.message;
    return;
  }
  if (!found.visual_tokens) return;
  kept = {...found, id, bits: bitSets(found), frames: []};
  const heads = [option(kMean, "mean over heads")];
  for (let h = 0; h < kept.kv_heads; ++h) heads.push(option(h, "head " + h));
  const chosen = $("head").value;
  $("head").replaceChildren(...heads);
  $("head").value = heads.some((one) => one.value === chosen) ? chosen : kMean;
  $("layer").max = kept.layers - 1;
  makeFrames();
  drawKept();
  show("kept", true);
}

// A picture for each frame of each grid, fetched when it comes into sight.
function makeFrames() {
  frameWatch = new IntersectionObserver((seen) => {
    for (const one of seen) {
      if (!one.isIntersecting) continue;
      frameWatch.unobserve(one.target);
      loadFrame(kept, Number(one.target.dataset.frame));
    }
  }, {rootMargin: "400px"});
  let first = 0;
  for (const [times, rows, columns] of kept.grids) {
    for (let t = 0; t < times; ++t, first += rows * columns) {
      const figure = element("figure"), box = element("div", undefined, "frame");
      const image = element("img"), canvas = element("canvas"), caption = element("figcaption");
      image.alt = "";
      canvas.width = columns;
      canvas.height = rows;
      canvas.setAttribute("role", "img");
      figure.dataset.frame = kept.frames.length;
      box.append(image, canvas);
      figure.append(box, caption);
      $("frames-kept").append(figure);
      kept.frames.push({first, cells: rows * columns, image, canvas, caption, url: ""});
      frameWatch.observe(figure);
    }
  }
}

// An <img> would ask without the key.
async function loadFrame(of, index) {
  const frame = of.frames[index];
  try {
    const response = await api("/v1/purekv/prefixes/" + encodeURIComponent(of.id) + "/frames/" + index + ".jpg");
    const picture = await response.blob();
    if (kept !== of) return;
    frame.url = URL.createObjectURL(picture);
    frame.image.src = frame.url;
  } catch (problem) {
    frame.caption.title = problem.message;  // the cells alone
  }
}

function headsText(sets) {
  if (sets.length === 0) return "it reads the cache of another layer.";
  const counts = sets.map((one) => {
    let n = 0;
    for (let i = 0; i < kept.visual_tokens; ++i) n += has(one, i);
    return n;
  });
  const least = Math.min(...counts), most = Math.max(...counts);
  return (least === most ? "every head keeps " + count(least) : "heads keep " + count(least) + " to " + count(most)) + " of " +
      count(kept.visual_tokens) + " visual tokens.";
}

function drawKept() {
  const layer = Number($("layer").value), sets = kept.bits[layer], chosen = sets[$("head").value];
  const heads = chosen ? [chosen] : sets;
  $("layer-value").textContent = layer + " of 0 to " + (kept.layers - 1);
  $("kept-summary").textContent = "Layer " + layer + ": " + headsText(sets);
  kept.frames.forEach((frame, index) => {
    const context = frame.canvas.getContext("2d");
    const picture = context.createImageData(frame.canvas.width, frame.canvas.height);  // black, and clear
    let sum = 0;
    for (let i = 0; i < frame.cells; ++i) {
      const share = heads.reduce((n, one) => n + has(one, frame.first + i), 0) / Math.max(1, heads.length);
      sum += share;
      picture.data[4 * i + 3] = Math.round(255 * kDark * (1 - share));
    }
    context.putImageData(picture, 0, 0);
    const text = count(sum) + " of " + count(frame.cells) + " cells kept";
    frame.caption.textContent = "Frame " + (index + 1) + ": " + text;
    frame.canvas.setAttribute("aria-label", "Frame " + (index + 1) + ", layer " + layer + ": " + text);
  });
}

// --- the page's own events ---

function showBudget() {
  const policy = $("policy").value;
  $("budget").disabled = policy === "" || policy === "full";
  $("budget-value").textContent = policy === "" ? "as the server is set" : policy === "full" ? "everything" : $("budget").value + " %";
  showCostSoon();
}

function listen() {
  const drop = $("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();  // else the browser would open the file in this page's place
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length > 0) takeFile(event.dataTransfer.files[0]);
    });
  }
  $("file").onchange = () => { if ($("file").files.length > 0) takeFile($("file").files[0]); };
  $("cancel-upload").onclick = () => state.upload?.abort();
  $("remove").onclick = async () => {
    if (state.answering) return;
    await removeFile();
    $("file").focus();
  };
  $("policy").onchange = $("budget").oninput = showBudget;
  $("frames").oninput = showCostSoon;
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (state.answering || state.upload || !state.model || !question) return;
    $("question").value = "";
    ask(question);
  };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  };
  $("stop").onclick = () => state.answering?.abort();
  $("layer").oninput = $("head").onchange = () => { if (kept) drawKept(); };
  $("forget-key").onclick = () => {
    sessionStorage.removeItem(kKey);
    location.reload();
  };
}

async function start() {
  for (;;) {
    const response = await fetch("/health").catch(() => null);
    if (response?.ok) break;
    $("model").textContent = response ? "the model is being loaded …" : "the server cannot be reached";
    await new Promise((resume) => setTimeout(resume, 500));
  }
  const model = (await (await api("/v1/models")).json()).data[0];
  state.model = model.id;
  $("model").textContent = model.id + ", " + model.purekv.family;
  $("policy").replaceChildren(...model.purekv.policies.map((name) => option(name, name)), option("", "as the server is set"));
  $("policy").value = "purekv";
  show("forget-key", key() !== "");
  showBudget();
  await findFileAgain();
  document.documentElement.dataset.ready = "1";
}

listen();
start().catch((problem) => { $("model").textContent = problem.message; });
