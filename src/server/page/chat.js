// What it costs, questions and answers.

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
