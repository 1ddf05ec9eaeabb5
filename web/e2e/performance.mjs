// How fast the page is on a real server: a benchmark, no test. Let nothing else run beside it.
//
//   regard explore run.safetensors --no-browser &
//   node e2e/performance.mjs 'http://127.0.0.1:PORT/#token=…' [the server's process id]
//
// HASH=layer=0&head=3 shows another head, SECONDS=4 is how long each motion takes, FLAGS are more of the browser, CHROMIUM
// names the browser.
// Times are wall-clock but for those "of the main thread", which are what the page's own thread computed.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [url, pid] = process.argv.slice(2);
if (!url) throw new Error("give the address that regard explore printed");
const [origin, token] = [new URL(url).origin, /token=([^&]+)/.exec(url)[1]];
const seconds = Number(process.env.SECONDS ?? 4);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", ...(process.env.FLAGS?.split(" ") ?? []), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
const page = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage();
page.on("pageerror", (error) => console.error(error.message));
const cdp = await page.context().newCDPSession(page);
await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
const whole = await browser.newBrowserCDPSession();
/** Seconds that the browser's processes of a kind have computed; that named GPU puts the page together, with or without one. */
async function spent() {
  const { processInfo } = await whole.send("SystemInfo.getProcessInfo");
  return (name) => processInfo.filter(({ type }) => type === name).reduce((sum, { cpuTime }) => sum + cpuTime, 0);
}
const metrics = async () => Object.fromEntries((await cdp.send("Performance.getMetrics")).metrics.map(({ name, value }) => [name, value]));

const ms = (x) => `${x.toFixed(x < 10 ? 1 : 0)} ms`;
const say = (what, ...parts) => console.log(what.padEnd(34), parts.join("  "));
const spread = (times) => {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part) => sorted[Math.min(Math.floor(part * sorted.length), sorted.length - 1)];
  return sorted.length ? `median ${ms(at(0.5))}, p95 ${ms(at(0.95))}, max ${ms(at(1))}, of ${sorted.length}` : "none";
};
/** The legend tells of a picture whose tiles are all there. */
const drawn = () => /exact|px =/.test(document.querySelector(".pixel")?.textContent ?? "") && !/refining/.test(document.querySelector(".panel [role=status]")?.textContent ?? "");
const until = (holds, seconds = 60) => page.waitForFunction(holds, null, { timeout: seconds * 1000, polling: 5 });
const measured = () => document.querySelectorAll(".heads .bar").length > 0;
const ask = (path) => page.evaluate(async ([to, secret]) => (await fetch(to, { headers: { "X-Regard-Token": secret } })).json(), [path, token]);

let began = performance.now();
await page.goto(`${origin}/?token=${token}`);
await until(() => document.querySelector("[data-open], .heads .bar"));
const [run] = await ask("/api/recordings");
const { layers } = await ask(`/api/recordings/${run.id}`);
say("machine", await page.evaluate(() => `${navigator.hardwareConcurrency} cores, ${navigator.userAgent}`));
say("recording", run.name, `${run.tokens} tokens`, `${layers.reduce((sum, one) => sum + one.heads, 0)} heads`);

await page.goto(`${origin}/?token=${token}#atlas?r=${run.id}`);
await until(measured, 3600);
say("pyramids", `waited ${((performance.now() - began) / 1000).toFixed(1)} s`);
began = performance.now();
await page.reload();
await until(measured);
say("atlas, from reload", ms(performance.now() - began));
await page.goto("about:blank");
await page.goto(`${origin}/?token=${token}`);
await page.evaluate(() => performance.setResourceTimingBufferSize(100_000));
const place = process.env.HASH ?? `layer=${layers.at(-1).index}&head=0`;
began = performance.now();
await page.evaluate((hash) => (location.hash = hash), `map?r=${run.id}&${place}`);
await until(drawn);
say("map, from a click", ms(performance.now() - began));
say("painter", await page.evaluate(() => {
  const gl = document.querySelector(".base").getContext("webgl2");
  return gl ? `WebGL2, ${gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER)}` : "Canvas2D";
}));

/** Moves the map in each frame for some seconds; what a frame took. */
async function motion(what, scale, kind) {
  const { queries, keys } = layers.at(-1);
  await page.evaluate((hash) => (location.hash = hash), `map?r=${run.id}&${place}&at=${queries * 0.7},${keys * 0.4},${scale}`);
  await page.waitForTimeout(300);
  await until(drawn);
  const box = await page.locator(".over").boundingBox();
  await page.mouse.move(box.x + 400, box.y + 300);
  if (kind === "pan") await page.mouse.down(); // so that the pointer is one that can be captured
  await page.evaluate(() => performance.clearResourceTimings());
  const [before, spentBefore] = [await metrics(), await spent()];
  const frames = await page.evaluate(([kind, length, x, y]) => new Promise((done) => {
    const over = document.querySelector(".over");
    const [start, times] = [performance.now(), []];
    const frame = (now) => {
      times.push(now);
      const part = (now - start) / 1000;
      if (part > length) return done(times);
      const at = { bubbles: true, pointerId: 1, button: 0, buttons: 1, clientX: x, clientY: y };
      if (kind === "pan") {
        const [dx, dy] = [240 * Math.sin(part * 2.1), 200 * Math.sin(part * 1.3)];
        over.dispatchEvent(new PointerEvent("pointermove", { ...at, clientX: x + dx, clientY: y + dy }));
      } else over.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: 16 * Math.sign(Math.sin(part * Math.PI)), cancelable: true }));
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }), [kind, seconds, box.x + 400, box.y + 300]);
  const [after, ended] = [await metrics(), await spent()];
  if (kind === "pan") await page.mouse.up();
  const each = (name) => ms(((after[name] - before[name]) * 1000) / frames.length);
  const gaps = frames.slice(1).map((now, i) => now - frames[i]);
  say(what, `${((frames.length - 1) / ((frames.at(-1) - frames[0]) / 1000)).toFixed(0)} frames/s`, `frame ${spread(gaps)}`);
  say("", `of the main thread in a frame: script ${each("ScriptDuration")}, style ${each("RecalcStyleDuration")}, layout ${each("LayoutDuration")}, all ${each("TaskDuration")}`);
  say("", `of all cores in a frame: ${["renderer", "GPU", "browser"].map((type) => `${type} ${ms(((ended(type) - spentBefore(type)) * 1000) / frames.length)}`).join(", ")}`);
  const tileTimes = await page.evaluate(() => performance.getEntriesByType("resource").filter((one) => /\/map\//.test(one.name)).map((one) => one.responseEnd - one.startTime));
  if (tileTimes.length) say("", `tiles meanwhile ${spread(tileTimes)}`);
}
await motion("zoom at the whole map", 1200 / layers.at(-1).keys, "zoom");
await motion("zoom between levels", 0.1, "zoom");
await motion("pan, 8×8 weights in a pixel", 0.125, "pan");
await motion("pan, a weight in 4×4 pixels", 4, "pan");
await motion("pan, among tokens", 16, "pan");
await motion("pan, among numbers", 64, "pan");

/** Tiles one after the other, each asked for once, as the page asks. */
const { queries, keys, heads, index } = layers.at(-1);
const most = Math.max(0, Math.ceil(Math.log2(Math.max(queries, keys) / 256)));
const all = [];
for (let level = 0; level <= most; level++) {
  const times = await page.evaluate(async ([base, secret, block, queries, keys, heads]) => {
    const times = [];
    for (let i = 0; i < 24; i++) {
      const [row, col] = [queries, keys].map((n, axis) => Math.floor(((0.13 + 0.618 * (i + 1) * (axis ? 0.4 : 1)) % 1) * Math.max(Math.floor(n / (256 * block)), 1)));
      const side = (start, n) => [start, Math.min(start + 256 * block, start + Math.floor((n - start) / block) * block)];
      const [q, k] = [side(row * 256 * block, queries), side(col * 256 * block, keys)];
      const path = `${base}/${i % heads}?q=${q}&k=${k}&rows=${(q[1] - q[0]) / block}&cols=${(k[1] - k[0]) / block}&how=max`;
      const start = performance.now();
      const answer = await fetch(path, { headers: { "X-Regard-Token": secret } });
      await answer.arrayBuffer();
      times.push(performance.now() - start);
      if (answer.status !== 200) throw new Error(`${path}: ${answer.status}`);
    }
    return times;
  }, [`/api/recordings/${run.id}/map/${index}`, token, 2 ** level, queries, keys, heads]);
  all.push(...times);
  say(`tile, ${2 ** level}×${2 ** level} weights in a pixel`, spread(times));
}
say("tile, any", spread(all));

if (pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const of = (name) => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)[1]) / 1024;
  const mib = (x) => `${x.toFixed(0)} MiB`;
  say("server's memory", `peak ${mib(of("VmHWM"))}, where the recording is ${mib(run.bytes / 2 ** 20)}`);
  say("", `now ${mib(of("VmRSS"))}: its own ${mib(of("RssAnon"))}, of files ${mib(of("RssFile"))}`);
}
await browser.close();
