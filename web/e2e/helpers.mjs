// What every browser test needs: a browser with no network but the server, tabs, checks, axe, screenshots.
// CHROMIUM names the browser, SHOTS a folder for screenshots. Every failed check is printed.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

export const near = (a, b, by = 2e-6) => Math.abs(a - b) <= by * Math.max(Math.abs(a), Math.abs(b), 1e-12);
/** A number as the page writes it. */
export const numberIn = (text) => Number(text.replaceAll("−", "-").replaceAll(",", ""));

/** `given.patience`: how long, in ms, what a check waits for may take. `given.by`: how far, relatively, a weight may be off. */
export async function openBrowser(given) {
  const shots = process.env.SHOTS;
  if (shots) mkdirSync(shots, { recursive: true });
  // A page that is opened from the disk has neither.
  const origin = given.url && new URL(given.url).origin;
  const token = given.url && /token=([^&#]+)/.exec(given.url)[1];

  let failures = 0;
  function check(what, holds, more = "") {
    if (holds) return;
    failures++;
    console.error(`FAILED: ${what} ${more}`);
  }
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // No name resolves, so that nothing but the server's own address can be reached.
    args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  });
  const contextOf = (more) => browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", acceptDownloads: true, ...more });
  const context = await contextOf();

  /** A tab in which nothing may go wrong, and no request may go to an address that `allowed` does not accept. */
  async function strictPage(where, allowed) {
    const page = await where.newPage();
    page.on("request", (request) => check("no request goes to another server", /^(blob|data):/.test(request.url()) || allowed(request.url()), request.url()));
    page.on("pageerror", (error) => check("no error in the page", false, error.message));
    page.on("console", (message) => check("nothing to complain of", message.type() !== "error", message.text()));
    return page;
  }
  async function tab(hash = "", before = null) {
    const page = await strictPage(context, (url) => new URL(url).origin === origin);
    page.setDefaultTimeout(10_000);
    if (before) await page.addInitScript(before);
    await page.goto(`${origin}/?token=${token}${hash}`);
    return page;
  }
  const hashOf = (page) => page.evaluate(() => location.hash);
  async function until(page, what, holds, arg = null) {
    await page.waitForFunction(holds, arg, { timeout: given.patience ?? 20_000 }).catch(() => check(what, false, `at ${page.url()}`));
  }
  async function serious(page, where) {
    await page.evaluate(readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8"));
    const found = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations
      .filter((one) => one.impact === "serious" || one.impact === "critical")
      .map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.target.join(" ")).join(", ")}`));
    check(`axe finds nothing serious: ${where}`, found.length === 0, found.join("; "));
  }
  const shot = (page, name) => (shots ? page.screenshot({ path: `${shots}/${name}.png` }) : null);
  const ready = () => document.querySelector(".readout")?.getAttribute("data-ready") === "1";
  const settled = () => /exact|px =/.test(document.querySelector(".pixel")?.textContent ?? "") && !/refining/.test(document.querySelector(".panel [role=status]")?.textContent ?? "");
  const weightOf = (page) => page.evaluate(() => Number(document.querySelector("[data-weight]").dataset.weight));

  /** Zooms by the wheel from the whole map to the given weight and selects it; returns the map's box. */
  async function zoomToWeight(page) {
    const box = await page.locator(".over").boundingBox();
    // The wheel zooms at the cursor: the weight stays under it all the way down.
    const at = async () => {
      const [, q, k, scale] = (/at=([\d.]+),([\d.]+),([\d.e-]+)/.exec(await hashOf(page)) ?? []).map(Number);
      const [left, top] = [box.x + 92 + (box.width - 132) / 2, box.y + 76 + (box.height - 116) / 2];
      return { x: left + (given.key + 0.5 - k) * scale, y: top + (given.query + 0.5 - q) * scale, scale };
    };
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await page.mouse.wheel(0, 1); // a touch, so that the URL says where the map is
    await page.waitForTimeout(300);
    for (let i = 0, now = await at(); i < 30 && !(now.scale >= 60); i++, now = await at()) {
      await page.mouse.move(now.x, now.y);
      await page.mouse.wheel(0, -400);
      await page.waitForTimeout(250);
    }
    await until(page, "near, the legend says exact", () => document.querySelector(".pixel")?.classList.contains("exact"));
    await until(page, "the near map is drawn", settled);
    const { x, y } = await at();
    await page.mouse.move(x, y);
    await page.mouse.click(x, y);
    await until(page, "a click selects the weight", ready);
    await page.waitForTimeout(300);
    check("the cell under the cursor is the one that was zoomed to", (await hashOf(page)).includes(`cell=${given.query},${given.key}`), await hashOf(page));
    check("the readout is the exact weight", near(await weightOf(page), given.weight, given.by), `${await weightOf(page)} for ${given.weight}`);
    return box;
  }
  /** The table has the weight. */
  async function checkTable(page) {
    await page.keyboard.press("t");
    await until(page, "the table has the cell", () => /\d/.test(document.querySelector(".table-twin .selected")?.textContent ?? ""));
    const said = await page.textContent(".table-twin .selected");
    check("the table has the same weight", near(numberIn(said), given.weight, 1e-3), said);
  }
  const saved = async (page, button) => readFileSync(await (await Promise.all([page.waitForEvent("download"), page.click(button)]))[0].path());
  /** The exported files have the weight; the dialog stays open. */
  async function files(page, box) {
    const lines = (await saved(page, "[data-csv]")).toString().trim().split("\n").map((line) => line.split(","));
    const cell = lines.find((line) => line[0] === String(given.query))?.[lines[0].indexOf(String(given.key))];
    check("the CSV has the weight", near(Number(cell), given.weight, given.by), cell);
    const png = await saved(page, "[data-png='2']");
    check("the PNG is twice the map", png.toString("latin1", 1, 4) === "PNG" && png.readUInt32BE(16) === Math.round(2 * box.width), `${png.readUInt32BE(16)}`);
    check("the SVG has the weight", (await saved(page, "[data-svg]")).includes(`${given.query}, ${given.key}: `));
  }
  /** The nine steps of the selected weight, the seventh of which ends at it. */
  async function steps(page, after) {
    await page.keyboard.press("e");
    await until(page, "E explains", () => document.querySelector(".lesson .subject"));
    for (let step = 1; step <= 9; step++) {
      await page.click(`.steps ol li:nth-child(${step}) button`);
      await page.waitForTimeout(150);
      if (step === 7) {
        const shown = await page.evaluate(() => Number(document.querySelector("[data-lesson-weight]").dataset.lessonWeight));
        check("the lesson ends at the weight", near(shown, given.weight, given.by), `${shown}`);
      }
      await after(step);
    }
  }
  /** Ends: the exit status says whether every check holds. */
  async function end() {
    await browser.close();
    console.log(failures ? `${failures} checks failed` : "every check holds");
    process.exit(failures ? 1 : 0);
  }

  return { contextOf, strictPage, zoomToWeight, checkTable, files, steps, end, browser, context, origin, token, tab, check, hashOf, until, serious, shot, ready, settled, weightOf };
}
