// The built page in a real Chromium, from the whole map down to one weight, with no network but the server.
//
//   node e2e/page.mjs '{"url": …, …}'       the argument is what tests/web/test_page.py passes
//
// The argument: url (with its token), recording (id), layer, head, query, key and the exact weight there.
// SCENES=name,name walks only those. Every failed check is printed (helpers.mjs); then the exit status is 1. What the lesson and the first screen do is in scenes.mjs.
import { readFileSync } from "node:fs";
import { scenes } from "./scenes.mjs";
import { openBrowser, near } from "./helpers.mjs";

const given = JSON.parse(process.argv[2]);
const all = await openBrowser(given);
const { browser, context, token, tab, check, hashOf, until, serious, shot, ready, settled, weightOf, zoomToWeight, checkTable, files, steps } = all;

async function fromWholeToOneWeight() {
  const page = await tab();
  await until(page, "recordings are listed", () => document.querySelector("[data-open]"));
  check("the token is not in the URL", !page.url().includes(token) || token.length < 5, page.url());
  await serious(page, "recordings");
  await shot(page, "open");
  await page.click(`[data-open="${given.recording}"]`);
  await until(page, "the atlas is measured", () => document.querySelectorAll(".heads .bar").length > 0);
  await page.waitForTimeout(400);
  await serious(page, "atlas");
  await shot(page, "atlas");
  await page.click(`[data-head="${given.layer}/${given.head}"]`);
  await until(page, "the whole map is drawn", settled);
  await shot(page, "map");
  await serious(page, "map");
  const box = await zoomToWeight(page);
  const said = await page.textContent("#live");
  check("it is said aloud", said.includes(`query ${given.query}`) && said.includes(`key ${given.key}`) && said.includes(given.weight.toPrecision(3).slice(0, 4)), said);
  await shot(page, "near");

  // The map as a table, the row, the lesson, and the file that is saved: the same number.
  await checkTable(page);
  await serious(page, "table");
  await shot(page, "table");
  await page.keyboard.press("t");
  await page.click("text=Export");
  await files(page, box);
  await serious(page, "export");
  await shot(page, "export");
  await page.keyboard.press("Escape");
  await steps(page, async (step) => {
    await shot(page, `lesson${step}`);
    if (step === 2 || step === 4) await serious(page, `lesson ${step}`);
  });
  await page.keyboard.press("4");
  await until(page, "the row is coloured", () => document.querySelectorAll(".text mark").length > 0);
  await serious(page, "row");
  await shot(page, "row");
  await page.keyboard.press("3");
  await until(page, "the map again", ready);
  await page.waitForTimeout(400);
  const hash = await hashOf(page);
  await page.close();

  const again = await tab(hash);
  await until(again, "the URL brings the cell back", ready);
  await again.waitForTimeout(400);
  check("the URL is the same", (await hashOf(again)) === hash, `${await hashOf(again)} for ${hash}`);
  check("and so is the weight", near(await weightOf(again), given.weight));
  await again.close();
}

async function everyKey() {
  const start = `#map?r=${given.recording}&layer=1&head=1&at=60,40,8&cell=60,40`;
  const page = await tab(start);
  await until(page, "the cell is read", ready);
  const press = async (key, pattern) => {
    await page.keyboard.press(key);
    await page.waitForFunction((source) => new RegExp(source).test(location.hash), pattern.source, { timeout: 5000 })
      .catch(async () => check(`key ${key}`, false, `${await hashOf(page)} is not ${pattern}`));
  };
  await press("ArrowDown", /cell=61,40/);
  await press("ArrowRight", /cell=61,41/);
  await press("ArrowUp", /cell=60,41/);
  await press("ArrowLeft", /cell=60,40/);
  await press("Shift+ArrowDown", /cell=70,40/);
  await press("Shift+ArrowLeft", /cell=70,30/);
  await press("]", /layer=2/);
  await press("[", /layer=1/);
  await press(".", /head=2/);
  await press(",", /head=1/);
  await press("+", /at=[\d.]+,[\d.]+,16(&|$)/);
  await press("-", /at=[\d.]+,[\d.]+,8(&|$)/);
  await press("0", /at=[\d.]+,[\d.]+,0?\.?[0-7]/);
  await press("l", /log=0/);
  await press("l", /^(?!.*log=0)/);
  await press("m", /pool=mean/);
  await press("m", /pool=sum/);
  await press("m", /^(?!.*pool=)/);
  await press("t", /table=1/);
  await press("t", /^(?!.*table=)/);
  await press("d", /at=/);
  await page.waitForTimeout(400);
  const [, q, k] = /at=([\d.]+),([\d.]+)/.exec(await hashOf(page));
  check("D goes to the diagonal", Math.abs(q - k) < 1, `${q} ${k}`);
  await page.waitForTimeout(900);
  await page.keyboard.press("n");
  await page.waitForTimeout(700);
  const first = /cell=[\d,]+/.exec(await hashOf(page))?.[0];
  await page.keyboard.press("n");
  await page.waitForTimeout(700);
  check("N goes on", /cell=[\d,]+/.exec(await hashOf(page))?.[0] !== first, first);
  await press("p", new RegExp(first));
  await page.keyboard.press("g");
  await until(page, "G asks", () => document.activeElement.name === "index");
  await page.keyboard.type("33");
  await press("Enter", /cell=33,33/);
  await page.waitForTimeout(300);
  await page.keyboard.press("/");
  check("/ goes to the search", await page.evaluate(() => document.activeElement.id === "search"));
  await page.keyboard.type("12");
  await press("Enter", /cell=12,12/);
  await page.keyboard.press("Escape");
  await press("Escape", /^(?!.*cell=)/);
  await page.keyboard.press("?");
  check("? shows the keys", (await page.locator("dialog[open] .keys").count()) === 1);
  await shot(page, "help");
  await press("Escape", /^#map/);
  check("Esc closes", (await page.locator("dialog[open]").count()) === 0);
  await press("4", /^#row/);
  await press("3", /^#map/);
  await press("5", /^#lesson/);
  await press("3", /^#map/);
  await press("e", /^#lesson/);
  await serious(page, "three words");
  await shot(page, "words");
  await press("6", /^#compare/);
  await until(page, "the difference is drawn", settled);
  await serious(page, "compare");
  await shot(page, "compare");
  await press("2", /^#atlas/);
  await press("1", /^#open/);
  await page.goBack();
  await page.waitForTimeout(300);
  check("Back goes back", /^#atlas/.test(await hashOf(page)), await hashOf(page));
  // Keyboard alone: Tab reaches a head, Enter opens it.
  for (let i = 0; i < 40 && !(await page.evaluate(() => document.activeElement.dataset.head)); i++) await page.keyboard.press("Tab");
  await press("Enter", /^#map/);
  await page.close();
}

/** The two painters give the same picture. */
async function withoutWebGl() {
  const hash = `#map?r=${given.recording}&layer=${given.layer}&head=${given.head}&at=200,150,4`;
  const pictures = [];
  // Where no graphics processor runs WebGL2, the page does without: here one is emulated.
  for (const before of [() => {
    const get = WebGL2RenderingContext.prototype.getParameter;
    WebGL2RenderingContext.prototype.getParameter = function (name) {
      return name === 0x9246 ? "a graphics processor" : get.call(this, name);
    };
  }, null]) {
    const page = await tab(hash, before);
    await until(page, "the map is drawn", settled);
    const kind = await page.evaluate(() => (document.querySelector(".base").getContext("webgl2") ? "WebGL2" : "Canvas2D"));
    check("each painter has its turn", kind === (before ? "WebGL2" : "Canvas2D"), kind);
    await page.waitForTimeout(300);
    const box = await page.locator(".base").boundingBox();
    pictures.push((await page.screenshot({ clip: { x: box.x + 20, y: box.y + 20, width: 400, height: 300 } })).toString("base64"));
    await page.close();
  }
  const page = await context.newPage();
  const different = await page.evaluate(async (both) => {
    const [a, b] = await Promise.all(both.map(async (text) => {
      const blob = new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], { type: "image/png" });
      const canvas = new OffscreenCanvas(400, 300);
      const drawing = canvas.getContext("2d");
      drawing.drawImage(await createImageBitmap(blob), 0, 0);
      return drawing.getImageData(0, 0, 400, 300).data;
    }));
    let count = 0;
    const colours = new Set();
    for (let i = 0; i < a.length; i += 4) {
      colours.add(a[i] * 65536 + a[i + 1] * 256 + a[i + 2]);
      if (Math.max(...[0, 1, 2].map((c) => Math.abs(a[i + c] - b[i + c]))) > 12) count++;
    }
    return { part: count / (a.length / 4), colours: colours.size };
  }, pictures);
  check("WebGL2 and Canvas2D paint the same", different.part < 0.01 && different.colours > 10, JSON.stringify(different));
  await page.close();
}

try {
  const only = process.env.SCENES?.split(",");
  for (const scene of [fromWholeToOneWeight, everyKey, withoutWebGl, ...scenes(all, given)]) {
    if (only && !only.includes(scene.name)) continue;
    await scene().catch((error) => check(scene.name, false, error.stack ?? error.message));
  }
} finally {
  await all.end();
}
