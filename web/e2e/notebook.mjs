// The widget of a notebook in a real Chromium: widget.js with a stand-in for anywidget's model, bridged to a widget
// that runs in Python (tests/web/test_notebook_page.py, which also serves this page and starts this walk).
//
// The argument: url, height, layer, head, query, key and the exact weight there. Environment as in helpers.mjs.
import { openBrowser, near } from "./helpers.mjs";

const given = JSON.parse(process.argv[2]);
const { browser, origin, tab, check, until, shot, settled, end } = await openBrowser(given);

const ask = async (path, body) => (await fetch(`${origin}${path}`, body && { method: "POST", body: JSON.stringify(body) })).json();
const place = () => ask("/state");
async function soon(what, holds) {
  let last;
  for (const end = Date.now() + 20_000; Date.now() < end; await new Promise((later) => setTimeout(later, 50)))
    if (holds((last = await place()))) return last;
  check(what, false, JSON.stringify(last));
  return last;
}
const framed = async (page) => (await page.waitForSelector("iframe")).contentFrame();
const drawn = (frame, what) => until(frame, what, () => document.querySelectorAll(".heads .bar").length > 0);
const ground = (frame) => frame.evaluate(() => getComputedStyle(document.body).backgroundColor);

// The frame goes with the notebook, whatever the system is. (No emulated scheme: that would hold in every frame.)
const grounds = {};
for (const notebook of ["light", "dark"]) {
  const page = await browser.newPage({ colorScheme: null, viewport: { width: 1280, height: 800 } });
  await page.goto(`${given.url}&theme=${notebook}`);
  const frame = await framed(page);
  await drawn(frame, `the atlas is measured in a ${notebook} notebook`);
  grounds[notebook] = await ground(frame);
  await shot(page, `notebook-${notebook}`);
  check("the frame is as high as was said", (await page.locator("iframe").boundingBox()).height === given.height);
  await page.close();
}
const light = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3;
check("a light notebook has a light map", light(grounds.light) > 200, grounds.light);
check("a dark notebook has a dark map", light(grounds.dark) < 60, grounds.dark);

const page = await tab();
const frame = await framed(page);
await drawn(frame, "the atlas is measured");

// Python points.
await ask("/go", { layer: given.layer, head: given.head, query: given.query, key: given.key });
await until(frame, "the weight that Python pointed at is shown", () => document.querySelector(".readout")?.getAttribute("data-ready") === "1");
const weight = await frame.evaluate(() => Number(document.querySelector("[data-weight]").dataset.weight));
check("the readout is the exact weight", near(weight, given.weight), `${weight} for ${given.weight}`);
await until(frame, "the map is drawn", settled);
await shot(page, "notebook-map");

// A person points: a click selects another weight, an arrow key moves from it, and Python is notified.
const box = await page.locator("iframe").contentFrame().locator(".over").boundingBox();
await page.mouse.click(box.x + 92 + (box.width - 132) * 0.25, box.y + 76 + (box.height - 116) * 0.75);
const clickedAt = await soon("Python is notified of a click", ({ cell }) => cell && cell[0] !== given.query && cell[1] !== given.key);
check("the click is where it was", clickedAt.cell[0] > clickedAt.cell[1], JSON.stringify(clickedAt));
await page.keyboard.press("ArrowDown");
const shown = await soon("Python is notified of a key", ({ cell }) => cell[0] === clickedAt.cell[0] + 1 && cell[1] === clickedAt.cell[1]);
await until(frame, "the page says which", (query) => document.querySelector(".readout")?.textContent.includes(query), String(shown.cell[0]));
await until(frame, "its weight is shown", () => document.querySelector(".readout")?.getAttribute("data-ready") === "1");
const clicked = await frame.evaluate(() => Number(document.querySelector("[data-weight]").dataset.weight));
const { weight: exact } = await ask("/weight", shown);
check("it is the library's", near(clicked, exact), `${clicked} for ${exact}`);

// A second view of the same widget begins where the first one is, and they go together.
const second = await tab();
const other = await framed(second);
await until(other, "a second view shows the same weight", () => document.querySelector(".readout")?.getAttribute("data-ready") === "1");
await ask("/go", { query: 40, key: 20 });
for (const view of [frame, other]) await until(view, "both go", () => /40/.test(document.querySelector(".readout")?.textContent ?? ""));

// What the page sends along arrives: JSON as text, a file as bytes.
const posted = (path, body) => other.evaluate(([path, body]) => new Promise((done) => {
  addEventListener("message", ({ data }) => data.id === 9001 && done(data), { once: false });
  parent.postMessage({ regard: 1, id: 9001, path, method: "POST", body: body ?? new Blob([new Uint8Array([1, 2, 3])]) }, "*");
}), [path, body]);
const { status, body: said } = await posted("/api/open", JSON.stringify({ text: 5 }));
check("JSON arrives", status === 400 && JSON.parse(said).error.given === "no text", said);
const file = await posted("/api/arrays", null);
check("a file arrives", file.status === 400 && JSON.parse(file.body).error.argument !== "Content-Type", file.body);

check("the page cannot reach into the notebook", await other.evaluate(() => {
  try {
    return !parent.document;
  } catch {
    return true;
  }
}));

// What is removed listens no more.
await second.evaluate(() => globalThis.remove());
check("the frame is gone", (await second.locator("iframe").count()) === 0);
check("nothing listens to the model", await second.evaluate(() => globalThis.listening() === 0));

await end();
