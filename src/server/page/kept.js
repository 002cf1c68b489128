// Which visual tokens the cache still holds, drawn over the frames.

const kDark = 0.8;   // of a cell that no head has
const kMean = "mean";
let kept = null;     // what the server says of a prefix, and {id, bits: [layer][head] bit sets, frames}
let keptWanted = "";  // the id that is shown, or asked for
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
  keptWanted = "";
  $("frames-kept").replaceChildren();
  show("kept", false);
}

async function showKept(id) {
  if (kept?.id === id) return;
  hideKept();
  keptWanted = id;
  let found;
  try {
    found = await (await api("/v1/purekv/prefixes/" + encodeURIComponent(id) + "/kept")).json();
  } catch (problem) {
    if (problem.status === 404) return;  // not kept any more
    $("status").textContent = problem.message;
    return;
  }
  if (keptWanted !== id || !found.visual_tokens) return;
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
