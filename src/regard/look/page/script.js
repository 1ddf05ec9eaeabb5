"use strict";
// The page's hands. Numbers are packed by regard/look/packing.py; text is read from the page itself.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const heads = new Map(data.heads.map((head) => [head.name, head]));
const state = { head: heads.get(data.chosen), how: null, tint: "", token: -1, cell: null };

async function bytes(packed) {
  const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
async function numbers(packed) {
  const raw = await bytes(packed), view = new DataView(raw.buffer);
  return Float64Array.from({ length: raw.length / 2 }, (_, i) => {
    const code = view.getUint16(2 * i, true);
    return code ? 10 ** (((code - 1) / 65534) * 15 - 9) : 0;
  });
}
const kept = new Map(); // each packed string is unpacked once
const once = (packed, unpack) => kept.get(packed) ?? kept.set(packed, unpack(packed)).get(packed);

async function links(head) {
  if (!head.links) return null;
  const raw = await once(head.links, bytes), m = data.n * head.width;
  return {
    key: (query, i) => {
      const at = i * data.n + query;
      return query - (raw[at] | (raw[m + at] << 8) | (raw[2 * m + at] << 16) | (raw[3 * m + at] << 24));
    },
    weight: (query, i) => {
      const code = raw[4 * m + i * data.n + query];
      return code ? 10 ** (((code - 1) / 254 - 1) * 4) : 0;
    },
  };
}

// Tokens: an <i> begins one, a <b> goes on with it on a later line.
const pieces = [...$("text").querySelectorAll("i, b")];
const parts = [], tokenOf = new Map(), lineOf = [];
for (const piece of pieces) {
  if (piece.tagName === "I") { parts.push([]); lineOf.push(+piece.parentNode.dataset.line); }
  parts.at(-1).push(piece);
  tokenOf.set(piece, parts.length - 1);
}
const tokenText = (t) => {
  const shown = parts[t].map((p) => p.textContent + (p.classList.contains("n") ? "↵" : "")).join("");
  return shown.trim() || shown.replaceAll(" ", "␣") || "·";
};
// Where a token stands: its line or, in prose, its number.
const placeOf = (t) => (data.prose ? t : lineOf[t]), placeName = data.prose ? "token" : "line";
// Three digits, and no more zeros than a person reads at a glance.
function figure(value) {
  if (!value) return "0";
  if (value >= 1000) return Math.round(value).toLocaleString("en");
  return value >= 0.0001 ? String(+value.toPrecision(3)) : value.toExponential(1).replace("-", "−");
}
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function inLine(token, role) {
  const first = parts[token][0], around = [...first.parentNode.children];
  const text = (list) => list.map((p) => p.textContent).join("");
  const at = around.indexOf(first), before = text(around.slice(0, at)).trimStart(), after = text(around.slice(at + 1)).trimEnd();
  const own = first.textContent, lead = own.trim() ? own.slice(0, own.length - own.trimStart().length) : "";
  const code = element("code", {}, before.length > 26 ? "…" + before.slice(-25) : before, before ? lead : "");
  code.append(element("mark", { class: role }, own.trim() || tokenText(token)), after);
  return [element("span", { class: "ln" }, String(placeOf(token))), code];
}

// ---------------------------------------------------------------- the large map

const canvas = $("canvas"), ramp = getComputedStyle(document.documentElement).getPropertyValue("--viridis").trim().split(",");
const stops = ramp.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
function colour(share) {
  const at = share * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((low, j) => low + (stops[i + 1][j] - low) * (at - i));
}
const pooling = () => state.how ?? state.head.how; // what tells most for the head, until one is asked for
const range = (i, count) => [Math.ceil((i * data.n) / count), Math.ceil(((i + 1) * data.n) / count) - 1];

async function drawMap() {
  const head = state.head, [rows, cols] = head.size, how = pooling();
  const values = await once(head.maps[how], numbers);
  if (head !== state.head || how !== pooling()) return;
  for (const button of document.querySelectorAll("[data-how]")) button.setAttribute("aria-pressed", button.dataset.how === how);
  const high = how === "max" || head.band ? 1 : Math.max(values.reduce((a, b) => Math.max(a, b), 0), 1e-12);
  const low = high / 10 ** data.decades, image = new ImageData(cols, rows);
  values.forEach((value, i) => {
    if (value >= low) image.data.set([...colour(Math.min(1 + Math.log10(value / high) / data.decades, 1)), 255], 4 * i);
  });
  canvas.width = cols; canvas.height = rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", `map of head ${head.name}; arrow keys move a cell, Enter goes to its text`);
  state.values = values;
  $("large-name").replaceChildren(`head ${head.name}`, element("small", {}, head.sees));
  $("low").textContent = figure(low); $("high").textContent = figure(high);
  const q = Math.ceil(data.n / rows), k = head.band ? 1 : Math.ceil(data.n / cols);
  $("pixel").textContent = `1 cell = up to ${q} queries × ${k} ${head.band ? "distance" : "keys"}, exact ${how === "max" ? "maximum" : "mean, with 0 for what may not be seen"}, log scale; blank is under ${figure(low)} or may not be seen. ` +
    (head.band ? `Queries downwards, by ${placeName}s; to the right the distance down to 0, the query itself.` : `Queries downwards, keys to the right, both by ${placeName}s of the text.`);
  const line = (part) => placeOf(Math.min(Math.round(part * data.n), data.n - 1));
  const back = (part) => (part < 1 ? Math.round(cols - 1 - part * cols) : 0);
  for (const [axis, side, name] of [["axis-y", "top", line], ["axis-x", "left", head.band ? back : line]])
    $(axis).replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((part) => element("span", { style: `${side}:${100 * part}%` }, String(name(part)))));
  $("facts").replaceChildren(...data.facts.map((name, i) => element("div", {}, element("dt", {}, name), element("dd", {}, figure(head.facts[i])))));
  $("strongest").replaceChildren(...head.strongest.map(([query, key, weight]) => {
    const pair = element("span", { class: "pair" }, ...inLine(query, "q"), ...inLine(key, "k"));
    const button = element("button", { type: "button", title: "show in the text" }, element("b", {}, weight.toFixed(2)), pair);
    button.onclick = () => { tint(head.name); choose(query, true); $("code").scrollIntoView(); };
    return element("li", {}, button);
  }));
  if (!head.strongest.length) $("strongest").append(element("li", {}, "none but those left out above"));
  for (const button of document.querySelectorAll(".atlas .map")) button.setAttribute("aria-pressed", button.dataset.head === head.name);
  for (const row of $("table").tBodies[0].rows) row.classList.toggle("chosen", row.querySelector("button").dataset.head === head.name);
  readCell();
}
function lines(first, last) {
  const [from, to] = [placeOf(first), placeOf(last)];
  return from === to ? `${placeName} ${from}` : `${placeName}s ${from}–${to}`;
}
function readCell() {
  const [rows, cols] = state.head.size, cell = state.cell && state.cell[0] < rows && state.cell[1] < cols ? state.cell : null;
  $("cell").hidden = !cell;
  if (!cell) { $("readout").textContent = "Point at the map, or focus it and use the arrow keys, to read a cell."; return; }
  const [r, c] = cell, [q0, q1] = range(r, rows), [k0, k1] = range(c, cols);
  const what = state.head.band ? `${cols - 1 - c} tokens back` : `keys of ${lines(k0, k1)}`;
  $("cell").style.cssText = `left:${(100 * c) / cols}%;top:${(100 * r) / rows}%;width:${100 / cols}%;height:${100 / rows}%`;
  $("readout").replaceChildren(`queries of ${lines(q0, q1)} × ${what}: ${pooling() === "max" ? "maximum" : "mean"} `, element("b", {}, figure(state.values[r * cols + c])));
}
canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect(), [rows, cols] = state.head.size;
  const at = (part, count) => Math.min(Math.max(Math.floor(part * count), 0), count - 1);
  state.cell = [at((event.clientY - box.top) / box.height, rows), at((event.clientX - box.left) / box.width, cols)];
  readCell();
});
const goToCell = () => {
  if (!state.cell) return;
  tint(state.head.name);
  choose(range(state.cell[0], state.head.size[0])[0], true);
  $("code").scrollIntoView();
};
canvas.addEventListener("click", goToCell);
canvas.addEventListener("keydown", (event) => {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Enter") goToCell();
  if (!move) return;
  event.preventDefault();
  const far = event.shiftKey ? 10 : 1;
  state.cell = (state.cell ?? [0, 0]).map((at, i) => Math.min(Math.max(at + far * move[i], 0), state.head.size[i] - 1));
  readCell();
});
function show(name) { state.head = heads.get(name); history.replaceState(null, "", `#head=${name}`); drawMap(); }
for (const button of document.querySelectorAll(".atlas .map")) button.onclick = () => show(button.dataset.head);
for (const button of document.querySelectorAll(".card .map, tbody button"))
  button.onclick = () => { show(button.dataset.head); $("maps").scrollIntoView(); };
for (const button of document.querySelectorAll("[data-how]"))
  button.onclick = () => {
    state.how = button.dataset.how;
    drawMap();
  };

// ---------------------------------------------------------------- the table

const table = $("table"), columns = [...table.tHead.rows[0].cells];
columns.forEach((column, i) => {
  const button = column.querySelector("button");
  if (button) button.onclick = () => {
    const down = column.getAttribute("aria-sort") !== "descending";
    for (const other of columns) other.removeAttribute("aria-sort");
    column.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => +row.cells[i].dataset.value;
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b))));
  };
});

// ---------------------------------------------------------------- the code

async function received(name) {
  const chosen = name ? [heads.get(name)] : data.heads;
  const totals = new Float64Array(data.n), even = new Float64Array(data.n);
  for (const head of chosen) {
    const [mine, share] = await Promise.all([once(head.received, numbers), once(data.shares[head.layer], numbers)]);
    for (let t = 0; t < data.n; t++) { totals[t] += mine[t]; even[t] += share[t]; }
  }
  return { totals, even };
}
const LEVELS = 8;
async function tint(name) {
  state.tint = name;
  $("head").value = name;
  const { totals, even } = await received(name), times = $("measure").value === "times";
  if (state.tint !== name) return;
  const values = totals.map((total, t) => (times ? total / Math.max(even[t], 1e-9) : total));
  // × even from 1 up: what receives less than its share stays plain. Totals over three powers of ten.
  const high = times ? 64 : values.reduce((a, b) => Math.max(a, b), 1e-9), low = times ? 1 : high / 1000;
  const level = (value) => (value <= low ? 0 : Math.min(Math.ceil((Math.log(value / low) / Math.log(high / low)) * LEVELS), LEVELS));
  parts.forEach((own, t) => {
    const wanted = level(values[t]);
    for (const piece of own) {
      piece.className = (piece.className.match(/\b(start|n|chosen|key|asks)\b/g) ?? []).join(" ");
      if (wanted) piece.classList.add(`a${wanted}`);
    }
  });
  const sums = new Map();
  totals.forEach((total, t) => sums.set(lineOf[t], (sums.get(lineOf[t]) ?? 0) + total));
  const most = Math.max(...sums.values());
  for (const line of $("text").querySelectorAll(".line")) line.style.setProperty("--sum", ((sums.get(+line.dataset.line) ?? 0) / most).toFixed(3));
  $("tint-low").textContent = times ? "1×" : figure(low); $("tint-high").textContent = times ? "64× and more" : figure(high);
  state.values2 = { totals, even };
  choose(state.token, false);
}
function marked(kind) { for (const piece of $("text").querySelectorAll(`.${kind}`)) piece.classList.remove(kind); }
function entry(token, weight, role) {
  const code = element("code", {}, tokenText(token));
  const button = element("button", { type: "button", style: `--w:${weight.toFixed(3)}` },
    element("span", {}, figure(+weight.toPrecision(2))), element("span", { class: "ln" }, String(placeOf(token))), code);
  button.onclick = () => choose(token, true);
  for (const piece of parts[token]) piece.classList.add(role);
  return element("li", {}, button);
}
async function choose(token, scroll) {
  for (const kind of ["chosen", "key", "asks"]) marked(kind);
  state.token = token;
  if (token < 0) return;
  for (const piece of parts[token]) piece.classList.add("chosen");
  if (scroll) {
    const box = $("text"), at = parts[token][0].parentNode;
    at.scrollIntoView({ block: "nearest" });
    const a = at.getBoundingClientRect(), b = box.getBoundingClientRect();
    box.scrollTop += a.top - b.top - box.clientHeight / 2;
  }
  const { totals, even } = state.values2 ?? (await received(state.tint));
  const head = state.tint ? heads.get(state.tint) : null, found = head ? await links(head) : null;
  if (state.token !== token) return;
  const panel = [element("h3", {}, element("mark", { class: "q" }, tokenText(token)), element("small", {}, data.prose ? `token ${token}` : `line ${lineOf[token]}, token ${token}`))];
  panel.push(element("p", { class: "fine" }, `receives ${figure(totals[token])} in all from ${head ? `head ${head.name}` : "all heads"}: ${figure(totals[token] / Math.max(even[token], 1e-9))} × its even share`));
  if (!head) panel.push(element("p", {}, "Choose a head to see what this token looks at."));
  else if (!found) panel.push(element("p", {}, "The links of every token are not in this file for this head, to keep it small. `regard look --layer --head` has them."));
  else {
    const to = [], from = [];
    for (let i = 0; i < head.width; i++) if (found.weight(token, i)) to.push([found.key(token, i), found.weight(token, i)]);
    for (let query = 0; query < data.n; query++)
      for (let i = 0; i < head.width; i++) if (found.weight(query, i) && found.key(query, i) === token && query !== token) from.push([query, found.weight(query, i)]);
    from.sort((a, b) => b[1] - a[1]);
    panel.push(element("h4", {}, `looks at (weight, ${placeName}, key)`), element("ol", {}, ...to.map(([key, weight]) => entry(key, weight, "key"))));
    panel.push(element("h4", {}, `looked at by ${from.length.toLocaleString("en")}, among their ${head.width} strongest`),
      element("ol", {}, ...from.slice(0, 12).map(([query, weight]) => entry(query, weight, "asks"))));
  }
  panel.push(element("h4", {}, "× its even share, by every head"), await everyHead(token));
  if (state.token === token) $("panel").replaceChildren(...panel);
}
async function everyHead(token) {
  const perLayer = Math.max(...[...heads.values()].map((head) => data.heads.filter((other) => other.layer === head.layer).length));
  const grid = element("div", { class: "grid", style: `--columns:${perLayer}` });
  for (const head of data.heads) {
    const [mine, share] = await Promise.all([once(head.received, numbers), once(data.shares[head.layer], numbers)]);
    const times = mine[token] / Math.max(share[token], 1e-9), level = times <= 1 ? 0 : Math.min(Math.ceil((Math.log2(times) / 6) * LEVELS), LEVELS);
    const button = element("button", { type: "button", class: level ? `a${level}` : "", "aria-pressed": head.name === state.tint, "aria-label": `head ${head.name}: ${figure(times)} times` }, figure(+times.toPrecision(2)));
    button.onclick = () => tint(head.name);
    grid.append(button);
  }
  return grid;
}
$("text").addEventListener("click", (event) => {
  const token = tokenOf.get(event.target);
  if (token !== undefined) choose(token, false);
});
$("text").addEventListener("pointerover", (event) => {
  const token = tokenOf.get(event.target), seen = state.values2;
  if (token !== undefined && seen) event.target.title = `${tokenText(token)}: receives ${figure(seen.totals[token])}, ${figure(seen.totals[token] / Math.max(seen.even[token], 1e-9))} × its even share`;
});
$("text").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], rows = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.key === "Escape") { choose(-1); return; }
  if (!step && !rows) return;
  event.preventDefault();
  let token = state.token < 0 ? 0 : state.token + (step ?? 0);
  if (rows && state.token >= 0) {
    const wanted = lineOf[token] + rows;
    while (token >= 0 && token < data.n && (rows < 0 ? lineOf[token] > wanted : lineOf[token] < wanted)) token += rows;
  }
  choose(Math.min(Math.max(token, 0), data.n - 1), true);
});
$("head").onchange = () => tint($("head").value);
$("measure").onchange = () => tint(state.tint);

const asked = /^#head=(.+)$/.exec(location.hash);
if (asked && heads.has(asked[1])) state.head = heads.get(asked[1]);
drawMap();
tint("");
