// What every walk through the page needs: a browser with no network but the server, tabs, checks, axe, screenshots.
// CHROMIUM names the browser, SHOTS a folder for screenshots. Every failed check is printed.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

export const near = (a, b, by = 2e-6) => Math.abs(a - b) <= by * Math.max(Math.abs(a), Math.abs(b), 1e-12);
/** A number as the page writes it. */
export const numberIn = (text) => Number(text.replaceAll("−", "-").replaceAll(",", ""));

export async function kit(given) {
  const shots = process.env.SHOTS;
  if (shots) mkdirSync(shots, { recursive: true });
  const origin = new URL(given.url).origin;
  const token = /token=([^&]+)/.exec(given.url)[1];

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
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", acceptDownloads: true });

  async function tab(hash = "", before = null) {
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    page.on("request", (request) => check("no request leaves the server", /^(blob|data):/.test(request.url()) || new URL(request.url()).origin === origin, request.url()));
    page.on("pageerror", (error) => check("no error in the page", false, error.message));
    page.on("console", (message) => check("nothing to complain of", message.type() !== "error", message.text()));
    if (before) await page.addInitScript(before);
    await page.goto(`${origin}/?token=${token}${hash}`);
    return page;
  }
  const hashOf = (page) => page.evaluate(() => location.hash);
  async function until(page, what, holds, arg = null) {
    await page.waitForFunction(holds, arg, { timeout: 20_000 }).catch(() => check(what, false, `at ${page.url()}`));
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

  return { browser, context, origin, token, tab, check, hashOf, until, serious, shot, ready, settled, weightOf, failures: () => failures };
}
