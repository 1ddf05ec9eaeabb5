// An offline page in a real Chromium, alone: opened from the disk, with no network at all, down to one weight.
//
//   node e2e/offline.mjs PAGE.html '{"recording": id, "layer": …, "head": …, "query": …, "key": …, "weight": …}'
//
// With "url" in the argument, that of `regard explore` with its token, PAGE.html is first made: by the page's own Export.
// "by" in the argument says how far, relatively, the weight may be from the one that is given: 2e-6 by default.
// "far": false ends once the weight has been found, as of a second file.
// CHROMIUM names the browser, SHOTS a folder for screenshots. Every failed check is printed; then the exit status is 1.
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { openBrowser } from "./helpers.mjs";

const file = pathToFileURL(resolve(process.argv[2])).href;
const given = { far: true, patience: 30_000, ...JSON.parse(process.argv[3]) };
const { contextOf, strictPage, tab, check, hashOf, until, serious, shot, ready, settled, zoomToWeight, checkTable, files, steps, end } = await openBrowser(given);

/** Saves the file from the page that the server sends: its size is said first. */
async function save() {
  const served = await tab(`#map?r=${given.recording}&layer=${given.layer}&head=${given.head}`);
  await served.click("text=Export");
  await served.click("[data-page] summary");
  await served.waitForSelector("[data-save]:not([disabled])");
  const said = await served.textContent("[data-page] [role=status]");
  await shot(served, "offline-save");
  const [saved] = await Promise.all([served.waitForEvent("download"), served.click("[data-save]")]);
  await saved.saveAs(process.argv[2]);
  const [, size, unit] = /^([\d.]+) (kB|MB)/.exec(said) ?? [];
  const stated = Number(size) * { kB: 1e3, MB: 1e6 }[unit];
  check("it is as large as was said", Math.abs(statSync(process.argv[2]).size / stated - 1) < 0.05, `${said} for ${statSync(process.argv[2]).size}`);
  await served.close();
}

if (given.url) await save().catch((error) => check("the page is saved", false, error.stack ?? error.message));
const page = await strictPage(await contextOf({ offline: true }), (url) => url === file || /^file:.*#/.test(url));
/** Screens that the walk through the served page goes to as well are shown to axe there. */
async function seen(name, own = true) {
  if (own) await serious(page, name);
  check(`no error is shown: ${name}`, (await page.locator(".error-banner").count()) === 0, await page.locator(".error-banner").allTextContents().then(String));
  await shot(page, `offline-${name}`);
}

async function walk() {
  await page.goto(file);
  await until(page, "it begins at the atlas", () => document.querySelectorAll(".heads .bar").length > 0);
  await page.keyboard.press("1");
  await until(page, "recordings are listed", () => document.querySelector("[data-open]"));
  await seen("open");
  await page.click(`[data-open="${given.recording}"]`);
  await until(page, "the atlas is there", () => document.querySelectorAll(".heads .bar").length > 0);
  await page.waitForTimeout(600);
  await seen("atlas");
  await page.click(`[data-head="${given.layer}/${given.head}"]`);
  await until(page, "the whole map is drawn", settled);
  await seen("map");

  const box = await zoomToWeight(page);
  await seen("near");
  if (!given.far) return;

  await checkTable(page);
  await seen("table");
  await page.keyboard.press("t");
  await until(page, "the map again", settled);

  await page.click("text=Export");
  check("the page says that it is one already", (await page.locator("[data-offline]").count()) === 1 && (await page.locator("[data-page]").count()) === 0);
  await files(page, box);
  await seen("export");
  await page.keyboard.press("Escape");

  await steps(page, (step) => seen(`lesson${step}`, step === 7));
  await page.keyboard.press("4");
  await until(page, "the row is coloured", () => document.querySelectorAll(".text mark").length > 0);
  await seen("row", false);
  await page.keyboard.press("6");
  await until(page, "a difference is drawn", settled);
  await seen("compare", false);
  await page.keyboard.press("3");
  await until(page, "the map again", ready);
  await page.waitForTimeout(400);
  const place = await hashOf(page);
  await page.reload();
  await until(page, "the place is kept when the file is loaded again", ready);
  check("and it is the same", (await hashOf(page)) === place, `${await hashOf(page)} for ${place}`);
}

try {
  await walk().catch((error) => check("the walk ends", false, error.stack ?? error.message));
} finally {
  await end();
}
