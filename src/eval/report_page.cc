// Style and script of the report. The script builds every text node from data, never markup.
#include "eval/report.h"

namespace purekv {

const char* const kReportStyle = R"css(
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--faint:#d8dde3;--paper:#fff;--raised:#f5f7f9;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#a0a9b4;--faint:#3a414b;--paper:#14171b;--raised:#1d2127;--accent:#6cb8ea}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:0 1rem 4rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:1.2rem 0 .4rem}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}
p{margin:.4rem 0;max-width:60rem}nav a{margin-right:.8rem;color:var(--accent)}
figure{margin:1rem 0;display:inline-block;vertical-align:top;width:min(100%,35rem)}
figure[hidden]{display:none}
svg{width:100%;height:auto;background:var(--paper)}
svg text{fill:var(--ink);font:13px system-ui,sans-serif}svg .title{font-weight:600;font-size:15px}
svg .grid{stroke:var(--faint)}svg .reference{stroke:var(--ink);stroke-dasharray:5 4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .5rem;border-bottom:1px solid var(--faint);text-align:left;white-space:nowrap}
.heat{background:color-mix(in srgb,var(--accent) calc(var(--share)*55%),transparent)}
summary{cursor:pointer;color:var(--soft)}
.controls{display:flex;flex-wrap:wrap;gap:.5rem 1rem;margin:.6rem 0}
label{color:var(--soft);font-size:.9rem}
select{font:inherit;max-width:100%;background:var(--raised);color:var(--ink);border:1px solid var(--faint);border-radius:4px;padding:.2rem}
dl{background:var(--raised);padding:.6rem .8rem;border-radius:6px;margin:.6rem 0;overflow-wrap:anywhere}
dt{color:var(--soft);font-size:.85rem}dd{margin:0 0 .4rem}
canvas{display:block;max-width:100%;background:var(--raised)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--raised);padding:.6rem;border-radius:6px;font-size:.85rem}
.warning{border-left:4px solid #d55e00;padding-left:.6rem}
)css";

const char* const kReportScript = R"js(
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const fill = (select, texts) => {
  const chosen = select.value;
  select.replaceChildren(...texts.map((text) => {
    const option = document.createElement("option");
    option.textContent = text;
    option.value = text;
    return option;
  }));
  if (texts.includes(chosen)) select.value = chosen;
};
const unique = (list) => [...new Set(list)];
const label = (s) => s.policy === "full" ? "full" : s.policy + " " + s.budget + " " + s.when;

// Charts of one group of questions at a time.
if ($("group")) {
  const show = () => {
    for (const figure of document.querySelectorAll("#quality figure")) figure.hidden = figure.dataset.group !== $("group").value;
  };
  $("group").onchange = show;
  show();
}

// Shares per layer and head.
if ($("share-setting")) {
  const shares = data.shares.filter((one) => one.visual.length);
  fill($("share-setting"), shares.map((one) => label(data.settings[one.setting])));
  if (shares.length > 1) $("share-setting").selectedIndex = 1;
  const cell = (tag, text, share) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (share !== undefined) {
      element.className = "heat";
      element.style.setProperty("--share", share);
    }
    return element;
  };
  const draw = () => {
    const one = shares[$("share-setting").selectedIndex];
    const table = document.createElement("table");
    if (one) {
      const head = table.insertRow();
      head.append(cell("th", "layer"));
      const kinds = one.evidence.length ? ["visual", "evidence"] : ["visual"];
      for (const kind of kinds) one[kind][0].forEach((_, h) => head.append(cell("th", kind + ", head " + h)));
      one.visual.forEach((_, l) => {
        const row = table.insertRow();
        row.append(cell("td", String(l)));
        for (const kind of kinds) for (const share of one[kind][l]) row.append(cell("td", share.toFixed(3), share));
      });
    }
    $("share-table").replaceChildren(table);
  };
  $("share-setting").onchange = draw;
  draw();
}

// The viewer.
if ($("viewer") && data.videos.length) {
  const state = { image: new Image(), source: "" };
  const video = () => data.videos[$("video").selectedIndex];
  const question = () => video().questions[$("question").selectedIndex];
  const find = (policy, budget, when) => question().answers.find((a) => {
    const s = data.settings[a[0]];
    return s.policy === policy && (policy === "full" || (String(s.budget) === budget && s.when === when));
  });
  const bits = (index) => Uint8Array.from(atob(data.kept[index]), (c) => c.charCodeAt(0));

  const paint = () => {
    const v = video();
    const q = question();
    const answer = find($("policy").value, $("budget").value, $("when").value);
    const canvas = $("frames");
    const [tileHeight, tileWidth] = v.tile;
    const gap = 4;
    const room = Math.max(tileWidth + gap, canvas.parentElement.clientWidth);
    const perRow = Math.max(1, Math.min(v.cells.length, Math.floor(room / (tileWidth + gap))));
    canvas.width = perRow * (tileWidth + gap);
    canvas.height = Math.ceil(v.cells.length / perRow) * (tileHeight + gap);
    const pen = canvas.getContext("2d");
    const total = v.cells.reduce((sum, [rows, columns]) => sum + rows * columns, 0);
    const bytes = Math.ceil(total / 8);
    const set = answer ? bits(answer[3]) : null;
    const layers = $("layer").selectedIndex === 0 ? [...Array(data.layers).keys()] : [$("layer").selectedIndex - 1];
    const heads = $("head").selectedIndex === 0 ? [...Array(data.heads).keys()] : [$("head").selectedIndex - 1];
    const evidence = new Set(q.evidence);
    let token = 0;
    let kept = 0;
    v.cells.forEach(([rows, columns], i) => {
      const x = (i % perRow) * (tileWidth + gap);
      const y = Math.floor(i / perRow) * (tileHeight + gap);
      const from = [(i % v.per_row) * tileWidth, Math.floor(i / v.per_row) * tileHeight];
      pen.drawImage(state.image, from[0], from[1], tileWidth, tileHeight, x, y, tileWidth, tileHeight);
      const outlined = [];
      for (let r = 0; r < rows; ++r) for (let c = 0; c < columns; ++c, ++token) {
        let count = 0;
        if (set) for (const l of layers) for (const h of heads) {
          if (set[(l * data.heads + h) * bytes + (token >> 3)] >> (token & 7) & 1) ++count;
        }
        const share = count / (layers.length * heads.length);
        kept += share;
        const box = [x + c * tileWidth / columns, y + r * tileHeight / rows, tileWidth / columns, tileHeight / rows];
        pen.fillStyle = "rgba(10,12,16," + (0.82 * (1 - share)).toFixed(3) + ")";
        if (share < 1) pen.fillRect(...box);
        if (evidence.has(token)) outlined.push(box);
      }
      pen.lineWidth = 2;
      pen.strokeStyle = "#ff3fd0";
      for (const [bx, by, bw, bh] of outlined) pen.strokeRect(bx + 1, by + 1, bw - 2, bh - 2);
    });
    const full = question().answers.find((a) => data.settings[a[0]].policy === "full");
    const lines = [["Question", q.prompt]];
    const score = (a) => q.reference ? " (score " + a[2].toFixed(2) + ")" : "";
    if (q.reference) lines.push(["Right", q.reference]);
    if (answer) lines.push(["This cache says" + score(answer), answer[1]]);
    if (full) lines.push(["The full cache says" + score(full), full[1]]);
    $("answers").replaceChildren(...lines.flatMap(([term, text]) => {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = text;
      return [dt, dd];
    }));
    const mib = (n) => (n / 1048576).toFixed(2) + " MiB";
    $("counts").textContent = !answer ? "Nothing was stored for this choice." :
      "Shown: " + kept.toFixed(0) + " of " + total + " visual tokens kept. Whole cache: " + answer[4].toFixed(0) + " of " + answer[5] +
      " tokens per layer and head, " + mib(answer[6]) + " of " + mib(answer[7]) + "." + answer[8];
    document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
  };
  const settings = () => question().answers.map((a) => data.settings[a[0]]);
  const refresh = () => {
    fill($("question"), video().questions.map((q) => (q.type ? q.type + ": " : "") + q.prompt + " (" + q.id + ")"));
    const all = settings();
    const other = all.filter((s) => s.policy !== "full");
    fill($("when"), unique((other.length ? other : all).map((s) => s.when)));
    fill($("policy"), unique(all.map((s) => s.policy)));
    if (!$("policy").dataset.touched && other.length) $("policy").value = other[0].policy;
    fill($("budget"), unique((other.length ? other : all).map((s) => String(s.budget))));
    if (state.source !== video().image) {
      state.source = video().image;
      state.image = new Image();
      state.image.onload = paint;
      state.image.src = state.source;
    } else if (state.image.complete) {
      paint();
    }
  };
  fill($("video"), data.videos.map((v) => v.name));
  fill($("layer"), ["all", ...Array(data.layers).keys()].map(String));
  fill($("head"), ["all", ...Array(data.heads).keys()].map(String));
  $("policy").addEventListener("change", () => { $("policy").dataset.touched = "1"; });
  for (const id of ["video", "question", "when", "policy", "budget", "layer", "head"]) $(id).addEventListener("change", refresh);
  addEventListener("resize", paint);
  refresh();
}
document.documentElement.dataset.ready = "1";
)js";

}  // namespace purekv
