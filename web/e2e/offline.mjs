// An offline page in a real Chromium, alone: opened from the disk, with no network at all, down to one weight.
//
//   node e2e/offline.mjs PAGE.html '{"recording": id, "layer": …, "head": …, "query": …, "key": …, "weight": …}'
//
// With "url" in the argument, that of `regard explore` with its token, PAGE.html is first made: by the page's own Export.
// "by" in the argument says how far, relatively, the weight may be from the one that is given: 2e-6 by default.
// "far": false ends once the weight has been found, as of a second file.
// CHROMIUM names the browser, SHOTS a folder for screenshots. Every failed check is printed; then the exit status is 1.
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const file = pathToFileURL(resolve(process.argv[2])).href;
const given = { by: 2e-6, far: true, ...JSON.parse(process.argv[3]) };
const shots = process.env.SHOTS;
if (shots) mkdirSync(shots, { recursive: true });

let failures = 0;
function check(what, holds, more = "") {
  if (holds) return;
  failures++;
  console.error(`FAILED: ${what} ${more}`);
}
const near = (a, b, by = given.by) => Math.abs(a - b) <= by * Math.max(Math.abs(a), Math.abs(b), 1e-12);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
async function tab(offline) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", acceptDownloads: true, offline });
  const made = await context.newPage();
  made.on("pageerror", (error) => check("no error in the page", false, error.message));
  made.on("console", (message) => check("nothing to complain of", message.type() !== "error", message.text()));
  return made;
}

/** Saves the file from the page that the server sends: its size is said first. */
async function save() {
  const served = await tab(false);
  const [base, hash] = [given.url.split("#")[0].split("?")[0], `map?r=${given.recording}&layer=${given.layer}&head=${given.head}`];
  await served.goto(`${base}?token=${/token=([^&#]+)/.exec(given.url)[1]}#${hash}`);
  await served.click("text=Export");
  await served.click("[data-page] summary");
  await served.waitForSelector("[data-save]:not([disabled])");
  const said = await served.textContent("[data-page] [role=status]");
  if (shots) await served.screenshot({ path: `${shots}/offline-save.png` });
  const [saved] = await Promise.all([served.waitForEvent("download"), served.click("[data-save]")]);
  await saved.saveAs(process.argv[2]);
  const [, size, unit] = /^([\d.]+) (kB|MB)/.exec(said) ?? [];
  const told = Number(size) * { kB: 1e3, MB: 1e6 }[unit];
  check("it is as large as was said", Math.abs(statSync(process.argv[2]).size / told - 1) < 0.05, `${said} for ${statSync(process.argv[2]).size}`);
  await served.context().close();
}

if (given.url) await save().catch((error) => check("the page is saved", false, error.stack ?? error.message));
const page = await tab(true);
page.on("request", (request) => check("nothing is asked of anybody", request.url() === file || /^(file:.*#|blob:|data:)/.test(request.url()), request.url()));

const hash = () => page.evaluate(() => location.hash);
async function until(what, holds) {
  await page.waitForFunction(holds, null, { timeout: 30_000 }).catch(async () => check(what, false, `at ${await hash()}`));
}
/** Screens that the walk through the served page goes to as well are shown to axe there. */
async function seen(name, own = true) {
  if (own) {
    await page.evaluate(readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8"));
    const found = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations
      .filter((one) => one.impact === "serious" || one.impact === "critical")
      .map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.target.join(" ")).join(", ")}`));
    check(`axe finds nothing serious: ${name}`, found.length === 0, found.join("; "));
  }
  check(`no trouble is told: ${name}`, (await page.locator(".trouble").count()) === 0, await page.locator(".trouble").allTextContents().then(String));
  if (shots) await page.screenshot({ path: `${shots}/offline-${name}.png` });
}
const settled = () => /exact|px =/.test(document.querySelector(".pixel")?.textContent ?? "") && !/refining/.test(document.querySelector(".panel [role=status]")?.textContent ?? "");
const held = () => document.querySelector(".readout")?.getAttribute("data-ready") === "1";
const number = async (selector) => Number((await page.textContent(selector)).replace("−", "-"));

async function walk() {
  await page.goto(file);
  await until("it begins at the atlas", () => document.querySelectorAll(".heads .bar").length > 0);
  await page.keyboard.press("1");
  await until("recordings are listed", () => document.querySelector("[data-open]"));
  await seen("open");
  await page.click(`[data-open="${given.recording}"]`);
  await until("the atlas is there", () => document.querySelectorAll(".heads .bar").length > 0);
  await page.waitForTimeout(600);
  await seen("atlas");
  await page.click(`[data-head="${given.layer}/${given.head}"]`);
  await until("the whole map is drawn", settled);
  await seen("map");

  // The wheel zooms at the cursor: the weight stays under it all the way down.
  const box = await page.locator(".over").boundingBox();
  const at = async () => {
    const [, q, k, scale] = (/at=([\d.]+),([\d.]+),([\d.e-]+)/.exec(await hash()) ?? []).map(Number);
    const [left, top] = [box.x + 92 + (box.width - 132) / 2, box.y + 76 + (box.height - 116) / 2];
    return { x: left + (given.key + 0.5 - k) * scale, y: top + (given.query + 0.5 - q) * scale, scale };
  };
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await page.mouse.wheel(0, 1); // a touch, so that the place says where the map is
  await page.waitForTimeout(300);
  for (let i = 0, now = await at(); i < 30 && !(now.scale >= 60); i++, now = await at()) {
    await page.mouse.move(now.x, now.y);
    await page.mouse.wheel(0, -400);
    await page.waitForTimeout(250);
  }
  await until("near, the legend says exact", () => document.querySelector(".pixel")?.classList.contains("exact"));
  await until("the near map is drawn", settled);
  const { x, y } = await at();
  await page.mouse.click(x, y);
  await until("a click holds the weight", held);
  await page.waitForTimeout(300);
  check("the cell under the cursor is held", (await hash()).includes(`cell=${given.query},${given.key}`), await hash());
  const weight = await page.evaluate(() => Number(document.querySelector("[data-weight]").dataset.weight));
  check("the readout is the weight", near(weight, given.weight), `${weight} for ${given.weight}`);
  await seen("near");
  if (!given.far) return;

  await page.keyboard.press("t");
  await until("the table twin holds the cell", () => /\d/.test(document.querySelector(".table-twin .held")?.textContent ?? ""));
  check("the table twin says the same", near(await number(".table-twin .held"), given.weight, 1e-3), await page.textContent(".table-twin .held"));
  await seen("table");
  await page.keyboard.press("t");
  await until("the map again", settled);

  await page.click("text=Export");
  check("the page says that it is one already", (await page.locator("[data-offline]").count()) === 1 && (await page.locator("[data-page]").count()) === 0);
  const [csv] = await Promise.all([page.waitForEvent("download"), page.click("[data-csv]")]);
  const lines = readFileSync(await csv.path(), "utf8").trim().split("\n").map((line) => line.split(","));
  const cell = lines.find((line) => line[0] === String(given.query))?.[lines[0].indexOf(String(given.key))];
  check("the CSV holds the weight", near(Number(cell), given.weight), cell);
  const [png] = await Promise.all([page.waitForEvent("download"), page.click("[data-png='2']")]);
  const bytes = readFileSync(await png.path());
  check("the PNG is twice the map", bytes.toString("latin1", 1, 4) === "PNG" && bytes.readUInt32BE(16) === Math.round(2 * box.width), `${bytes.readUInt32BE(16)}`);
  await seen("export");
  await page.keyboard.press("Escape");

  await page.keyboard.press("e");
  await until("E explains", () => document.querySelector(".lesson .subject"));
  for (let step = 1; step <= 9; step++) {
    await page.click(`.steps ol li:nth-child(${step}) button`);
    await page.waitForTimeout(150);
    if (step === 7) {
      const told = await page.evaluate(() => Number(document.querySelector("[data-lesson-weight]").dataset.lessonWeight));
      check("the lesson ends at the weight", near(told, given.weight), `${told}`);
    }
    await seen(`lesson${step}`, step === 7);
  }
  await page.keyboard.press("4");
  await until("the row is coloured", () => document.querySelectorAll(".text mark").length > 0);
  await seen("row", false);
  await page.keyboard.press("6");
  await until("a difference is drawn", settled);
  await seen("compare", false);
  await page.keyboard.press("3");
  await until("the map again", held);
  await page.waitForTimeout(400);
  const place = await hash();
  await page.reload();
  await until("the place is kept when the file is loaded again", held);
  check("and it is the same", (await hash()) === place, `${await hash()} for ${place}`);
}

try {
  await walk().catch((error) => check("the walk ends", false, error.stack ?? error.message));
} finally {
  await browser.close();
}
console.log(failures ? `${failures} checks failed` : "every check holds");
process.exit(failures ? 1 : 0);
