"use strict";
// Shares are packed by regard/export/attribution_page.py, in the order layer, head, token, sentence; text is in the page itself.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const [layers, heads, tokens, sentences] = data.size;
const marks = [...document.querySelectorAll(".s")], notes = [...document.querySelectorAll("small.n")];
const buttons = [...document.querySelectorAll(".answer button")];
const state = { token: null, shares: null };

async function numbers(packed) {
  const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  const view = new DataView(await new Response(stream).arrayBuffer());
  return Float64Array.from({ length: view.byteLength / 2 }, (_, i) => {
    const code = view.getUint16(2 * i, true);
    return code ? 10 ** (((code - 1) / 65534) * 15 - 9) : 0;
  });
}
const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)}%` : `${(100 * share).toFixed(1)}%`);
const range = (chosen, count) => (chosen === "" ? [...Array(count).keys()] : [+chosen]);

// What each of `count` sets of sentences gets from the chosen heads, at one token. Greatest shares are of the
// head that gives a set most, so those of documents are no sums of their sentences'.
function shares(token, setOf, count) {
  const chosen = range($("layer").value, layers).flatMap((l) => range($("head").value, heads).map((h) => [l, h]));
  const greatest = $("over").value === "max", result = new Float64Array(count);
  for (const [l, h] of chosen) {
    const from = ((l * heads + h) * tokens + token) * sentences, mine = new Float64Array(count);
    for (let s = 0; s < sentences; s++) mine[setOf(s)] += state.shares[from + s];
    mine.forEach((share, i) => (result[i] = greatest ? Math.max(result[i], share) : result[i] + share / chosen.length));
  }
  return result;
}
function average(setOf, count) {
  const at = range(state.token ?? "", tokens), result = new Float64Array(count);
  for (const token of at) shares(token, setOf, count).forEach((share, i) => (result[i] += share / at.length));
  return result;
}
const sum = (list) => list.reduce((a, b) => a + b, 0);

function show() {
  const each = average((s) => s, sentences), whole = average((s) => data.documents[s], data.names.length);
  const total = Math.max(sum(each), 1e-12), all = Math.max(sum(whole), 1e-12), [together] = average(() => 0, 1);
  each.forEach((share, s) => {
    marks[s].style.setProperty("--share", (share / total).toFixed(4));
    notes[s].textContent = percent(share / total);
  });
  document.querySelectorAll(".document h3 small").forEach((small, i) => (small.textContent = `${percent(whole[i] / all)} among the documents, ${percent(whole[i])} of all weight`));
  buttons.forEach((button, t) => {
    const best = shares(t, (s) => data.documents[s], data.names.length);
    button.style.setProperty("--own", `var(--d${best.indexOf(Math.max(...best)) % 6})`);
    button.setAttribute("aria-pressed", t === state.token);
  });
  $("whole").setAttribute("aria-pressed", state.token === null);
  const l = $("layer").value, h = $("head").value, how = $("over").value === "max" ? "greatest" : "mean";
  const which = l && h ? `head ${l}.${h}` : `the ${how} of ${l ? `the heads of layer ${l}` : h ? `head ${h} of all layers` : "all heads"}`;
  const what = state.token === null ? "the whole answer" : `“${buttons[state.token].textContent.trim()}”`;
  $("readout").textContent = `${what}, ${which}: ${percent(together)} of the weight goes to documents` + ($("over").value === "max" && !(l && h) ? ", each by the head that gives it most." : ".");
}
numbers(data.shares).then((result) => {
  state.shares = result;
  $("over").value = data.over; $("layer").value = data.layer; $("head").value = data.head;
  for (const id of ["layer", "head", "over"]) $(id).onchange = show;
  buttons.forEach((button, t) => (button.onclick = () => { state.token = state.token === t ? null : t; show(); }));
  $("whole").onclick = () => { state.token = null; show(); };
  const fragment = /^#token=(\d+)$/.exec(location.hash);
  if (fragment && +fragment[1] < tokens) state.token = +fragment[1];
  show();
});
