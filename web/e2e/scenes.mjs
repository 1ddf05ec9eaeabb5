// Scenes of the lesson, of its questions, and of what is opened, received and compared.
import { near, numberIn } from "./helpers.mjs";

export function scenes(helpers, given) {
  const { browser, origin, token, tab, check, hashOf, until, serious, shot } = helpers;
  const at = `r=${given.recording}&layer=2&head=1&cell=${given.query},${given.key}`;
  const numbers = (page, where) => page.$$eval(where, (all) => all.map((one) => one.textContent));
  const loaded = (page, what, where) => until(page, what, (name) => document.querySelector(name), where);

  /** Each number that can be clicked says where it came from and where it goes. */
  async function everyNumberHasOrigin(page, where) {
    const silent = await page.evaluate(async () => {
      const out = [];
      for (const one of [...document.querySelectorAll("article button.n")].slice(0, 80)) {
        one.click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        const shown = [...document.querySelectorAll(".origin > *")].map((part) => part.textContent.trim());
        if (shown.length !== 3 || shown.some((text) => /(came from|goes into)$|undefined|^$/.test(text))) out.push(`${one.textContent}: ${shown.join(" | ")}`);
      }
      return out;
    });
    check(`every number has its origin: ${where}`, silent.length === 0, silent.slice(0, 3).join("; "));
  }

  async function inputsToHeads() {
    const page = await tab(`#lesson?${at}`);
    await loaded(page, "step 1 has its products", "[data-component]");
    const total = async () => numberIn((await numbers(page, ".sums .total .n")).at(-1));
    const cellOf = (path) => page.evaluate(async ([path, token]) => (await fetch(path, { headers: { "X-Regard-Token": token } })).json(), [path, token]);
    const api = `/api/recordings/${given.recording}/cell/2/1/${given.query}/${given.key}`;
    const answer = await cellOf(api);
    check("step 1 ends at the recorded component", near(await total(), answer.inputs.q.recorded, 1e-4), `${await total()}`);
    await everyNumberHasOrigin(page, "step 1");
    await serious(page, "step 1 with inputs");
    await shot(page, "deep1");
    await page.fill("[data-component]", "3");
    await page.keyboard.press("Enter");
    await until(page, "the component is chosen", () => /i=3/.test(location.hash) && document.querySelector('[data-component="3"]'));
    await page.click(".segmented button:nth-child(2)");
    check("k of the chosen component", near(await total(), answer.k[3], 1e-4), `${await total()} for ${answer.k[3]}`);
    const again = await tab(await hashOf(page));
    await loaded(again, "the URL brings the component back", '[data-component="3"]');
    await again.close();

    await page.click(".steps ol li:nth-child(2) button");
    await page.check("text=Predict first");
    check("the product is hidden", (await page.locator(".sums .total .n").count()) === 0);
    await page.fill(".predict input", "1.5");
    await page.keyboard.press("Enter");
    await until(page, "the guess is judged", () => /you said 1\.500, off by/.test(document.querySelector(".guess")?.textContent ?? ""));
    check("the guess is judged aloud", /q · k: /.test(await page.textContent("#live")), await page.textContent("#live"));
    check("the dot product is shown", near(await total(), answer.dot, 1e-4), `${await total()}`);
    await page.click(".steps ol li:nth-child(7) button");
    await loaded(page, "step 7 asks first", ".predict input");
    check("no weight is shown before", (await page.locator("[data-lesson-weight]").count()) === 0);
    await page.click(".reveal");
    await loaded(page, "then the weight", "[data-lesson-weight]");
    await page.uncheck("text=Predict first");
    await everyNumberHasOrigin(page, "step 7");

    await page.click(".steps ol li:nth-child(8) button");
    await loaded(page, "step 8 has bars", ".stack button");
    await everyNumberHasOrigin(page, "step 8");
    const component = Number(await page.getAttribute("[data-component]", "data-component"));
    check("Σ weight × value is the output", near(await total(), answer.values.out[component], 1e-4), `${await total()}`);
    check("the tick is where the segments end", await page.evaluate(() => {
      const row = document.querySelector('.stack [aria-pressed="true"] .stacked-bar');
      const wide = (one) => parseFloat(one.style.width) * (parseFloat(one.style.left) < 49.999 ? -1 : 1);
      const sum = [...row.querySelectorAll("[data-at]")].reduce((a, one) => a + wide(one), 50);
      return Math.abs(sum - parseFloat(row.querySelector(".tick").style.left)) < 2;
    }));
    await page.focus('.stack [aria-pressed="true"]');
    await page.keyboard.press("ArrowRight");
    await until(page, "a segment is named aloud", () => /component \d+: .+ gives/.test(document.querySelector("#live").textContent));
    await shot(page, "deep8");
    await serious(page, "step 8");
    const field = page.locator("tr.this .edit.value");
    await field.fill("9");
    await field.press("Enter");
    const own = answer.values.keys.indexOf(given.key);
    const expected = answer.values.out[component] + (9 - answer.values.vs[own][component]) * answer.row.weights[own];
    await loaded(page, "an edited value says so", "article .note");
    check("the output follows an edited value", near(await total(), expected, 1e-3), `${await total()} for ${expected}`);
    await page.click("article .note button");
    check("as recorded brings it back", near(await total(), answer.values.out[component], 1e-4));

    await page.click(".steps ol li:nth-child(9) button");
    await loaded(page, "step 9 projects", "[data-projected]");
    const parts = (await numbers(page, "[data-projected] tbody tr:not(.total) td:nth-child(2) .n")).map(numberIn);
    const whole = Number(await page.evaluate(() => document.querySelector("[data-projected]").dataset.projected));
    check("the heads' parts sum to the output", Math.abs(parts.reduce((a, b) => a + b, 0) - whole) < 2e-3 * Math.max(...parts.map(Math.abs)), `${parts} for ${whole}`);
    await until(page, "every head has its weight", () => document.querySelectorAll("article table:last-of-type .two-bars").length > 1);
    await everyNumberHasOrigin(page, "step 9");
    await serious(page, "step 9");
    await shot(page, "deep9");
    await page.close();
  }

  async function threeQuestions() {
    const page = await tab("#lesson");
    await loaded(page, "the lesson needs no recording", ".matrices");
    const names = ["Can I see a simple example?", "Why separate query, key and value vectors?", "How does attention help a model understand context?"];
    for (const name of names) check(`the first screen names: ${name}`, await page.getByRole("button", { name }).isVisible());
    await page.click(".steps ol li:nth-child(2) button");
    await page.check("text=Predict first");
    const hidden = await page.locator(".n.reveal").count();
    await page.locator(".n.reveal").first().click();
    check("a score of the words is hidden until it is clicked", hidden > 3 && (await page.locator(".n.reveal").count()) === hidden - 1, `${hidden}`);
    await page.uncheck("text=Predict first");

    // The row's entropy stands beside the temperature, is that of the weights shown, and follows it.
    await page.click(".steps ol li:nth-child(7) button");
    await loaded(page, "step 7 tells entropies", "[data-entropies]");
    const entropies = async () => (await numbers(page, "section.head:first-of-type [data-entropies] .n")).map(numberIn);
    const row = (await numbers(page, "section.head:first-of-type .matrix:last-of-type tbody tr:last-child .n")).map(numberIn);
    const worked = -row.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0);
    const before = (await entropies()).at(-1);
    check("the entropy is that of the weights", Math.abs(worked - before) < 2e-3 && before > 0.1, `${worked} ${before}`);
    await page.locator("input[type=range]").fill("2");
    await page.waitForTimeout(500);
    check("a higher temperature spreads the row", (await entropies()).at(-1) > before + 0.05, `${before} ${await entropies()}`);
    await page.locator("input[type=range]").fill("0");
    await page.waitForTimeout(300);

    // By keyboard alone.
    await page.getByRole("button", { name: names[1] }).focus();
    await page.keyboard.press("Enter");
    await until(page, "why has its own place", () => /about=why/.test(location.hash) && document.querySelector("[data-side=tied]"));
    const verdict = (side) => page.textContent(`[data-side=${side}] .verdict`);
    check("separate vectors make a direction", (await verdict("separate")).startsWith("✓"), await verdict("separate"));
    const scores = async (side) => (await numbers(page, `[data-side=${side}] .equation .n`)).map(numberIn);
    const apart = await scores("separate");
    check("the two scores differ", apart[0] !== apart[1], `${apart}`);
    for (const [i, value] of [["0", "-4"], ["1", "2.5"], ["2", "7"]]) {
      await page.locator("[data-side=tied] .edit").nth(Number(i)).fill(value);
      const [there, back] = await scores("tied");
      check("tied, both scores are the same", there === back, `${there} ${back}`);
    }
    check("and the page says why", /cannot be done/.test(await verdict("tied")), await verdict("tied"));
    await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
    await everyNumberHasOrigin(page, "why");
    await serious(page, "why");
    await shot(page, "why");

    await page.getByRole("button", { name: names[2] }).click();
    await until(page, "two lines are read", () => document.querySelectorAll("article .line").length === 2, null);
    const cosine = (await numbers(page, "article .two-bars ~ td .n")).map(numberIn);
    check("going in, the vectors are the same; then they part", near(cosine[0], 1, 1e-3) && Math.min(...cosine) < 0.99, `${cosine}`);
    const rows = await numbers(page, "article .seen .n");
    const other = page.locator(".head-distances .n[aria-pressed=false]").first();
    await other.click();
    check("another head has other rows", (await numbers(page, "article .seen .n")).join() !== rows.join());
    await everyNumberHasOrigin(page, "context");
    await serious(page, "context");
    await shot(page, "context");
    const hash = await hashOf(page);
    const again = await tab(hash);
    await until(again, "the URL brings the question back", () => document.querySelectorAll("article .line").length === 2, null);
    await again.close();
    await page.close();
  }

  async function receivedAndCompared() {
    const page = await tab(`#row?r=${given.recording}&layer=1&head=1`);
    await until(page, "the text is coloured by what tokens receive", () => document.querySelectorAll(".text mark").length > 3, null);
    const most = numberIn((await numbers(page, ".tops .number"))[0]);
    check("the largest receiver gets more than an even share", most > 1, `${most}`);
    await serious(page, "received");
    await shot(page, "received");
    await page.keyboard.press("t");
    await loaded(page, "it has a table twin", ".table-twin tbody tr");
    check("which says the same", near(numberIn((await numbers(page, ".table-twin tbody td:nth-child(3)"))[0]), most, 1e-3));
    await page.keyboard.press("t");
    await page.locator(".tops button").first().click();
    await until(page, "a token leads to its row", () => /cell=\d+,\d+/.test(location.hash) && document.querySelector("[data-weight]"));
    await page.close();

    const both = await tab(`#compare?r=${given.recording}&layer=1&head=1&cell=60,40&beside=1`);
    await until(both, "both rows are over their texts", () => document.querySelectorAll(".reading .text").length === 2 && document.querySelectorAll(".panel .tops").length === 2);
    const titles = await both.$$eval(".reading h1", (all) => all.map((one) => one.textContent));
    check("each says whose it is", /^A: layer 1, head 1/.test(titles[0]) && /^B: layer 1, head 2/.test(titles[1]), titles.join("; "));
    await serious(both, "both rows");
    await shot(both, "rows");
    await both.keyboard.press("ArrowDown");
    await until(both, "arrows move there too", () => /cell=61,40/.test(location.hash));
    await both.getByRole("button", { name: "Difference" }).click();
    await until(both, "and the map comes back", () => document.querySelector(".stage") && !/beside/.test(location.hash));
    await both.close();
  }

  async function rankedHeads() {
    const page = await tab(`#atlas?r=${given.recording}`);
    await loaded(page, "ranked heads have cards", "[data-ranked]");
    const card = page.locator("[data-ranked]").first();
    const [layer, head] = (await card.getAttribute("data-ranked")).split("/");
    check("a card says why", (await card.textContent()).length > 20, await card.textContent());
    await card.focus();
    await page.keyboard.press("Enter");
    await until(page, "a card opens its map", (where) => location.hash.startsWith("#map") && new RegExp(where).test(location.hash), [layer !== "0" && `layer=${layer}`, head !== "0" && `head=${head}`].filter(Boolean).join(".*"));
    await page.close();
  }

  async function openedFromThePage() {
    const page = await tab();
    await until(page, "models are listed", () => document.querySelectorAll("select[name=model] option").length > 0);
    await serious(page, "open");
    await shot(page, "opening");
    const before = await page.locator("[data-open]").count();
    await page.fill("textarea[name=text]", "def area(width, height):\n    return width * height\n");
    await page.getByRole("button", { name: "Record and open" }).click();
    await until(page, "a text is recorded and opened", () => /^#atlas\?r=/.test(location.hash), null);
    await until(page, "it is said aloud", () => /is open/.test(document.querySelector("#live").textContent));
    const opened = /r=([^&]+)/.exec(await hashOf(page))[1];
    check("it is another recording", opened !== given.recording, opened);
    await page.keyboard.press("1");
    await until(page, "it is in the list", (n) => document.querySelectorAll("[data-open]").length > n, before);
    await page.setInputFiles("input[type=file]", given.arrays ?? { name: "made.npz", mimeType: "application/octet-stream", buffer: Buffer.from("123") });
    await page.check("text=Causal: no query sees later keys");
    await page.locator("form.open-form").last().getByRole("button", { name: "Open" }).click();
    await until(page, "arrays are opened", (ids) => location.hash.startsWith("#atlas") && !ids.some((id) => location.hash.includes(id)), [given.recording, opened]);
    await page.keyboard.press("4");
    if (given.arrays) await until(page, "tokens without a text are numbers", () => /^0 1 2 3 .*39 $/.test(document.querySelector(".text")?.textContent ?? ""));
    await page.keyboard.press("1");
    await until(page, "and are in the list", (n) => document.querySelectorAll("[data-open]").length > n, before + 1);
    await page.close();
  }

  /** What a screen reader announces: landmarks, names and states. */
  async function screenReader() {
    const page = await tab(`#map?r=${given.recording}&layer=1&head=1&cell=60,40`);
    await until(page, "the cell is read", helpers.ready);
    const map = await page.locator("body").ariaSnapshot();
    for (const part of [/banner:/, /navigation "Views"/, /button "Map"/, /main:/, /application "Map of layer 1, head 1/, /complementary "Cell"/, /search/])
      check(`the map is announced with ${part}`, part.test(map));
    await page.keyboard.press("ArrowRight");
    await until(page, "the next cell is said", () => /query 60 .*key 41 .*(\d|masked)/.test(document.querySelector("#live").textContent));
    await page.keyboard.press("]");
    await until(page, "and the next layer, with its cell", () => /layer 2|query 60/.test(document.querySelector("#live").textContent));
    await page.keyboard.press("e");
    await loaded(page, "the lesson", ".lesson .subject");
    await page.getByRole("button", { name: "Why separate query" }).click();
    await until(page, "another subject", () => /about=why/.test(location.hash));
    await page.keyboard.press("e");
    await until(page, "E explains the selected weight again", () => !/about=/.test(location.hash) && document.querySelector(".lesson .subject .token"));
    const lesson = await page.locator("main").ariaSnapshot();
    for (const part of [/navigation "Lesson"/, /heading "1\. /, /button "Next →"/, /status/]) check(`the lesson is announced with ${part}`, part.test(lesson), lesson.slice(0, 300));
    await page.close();
  }

  /** The progress of the pyramids is shown on every screen until they are complete; the stand-in server builds slowly. */
  async function whatIsBuilt() {
    if (given.arrays) return;
    const page = await tab(`#map?r=${given.recording}`);
    await until(page, "what is being built is said", () => /layer 2 of 4, 40 %/.test(document.querySelector(".build-progress")?.textContent ?? ""));
    await until(page, "until all is", () => !document.querySelector(".build-progress"));
    await page.close();
  }

  /** Narrow and dark: nothing runs out of the window, and axe finds enough contrast. */
  async function narrowAndDark() {
    const small = await browser.newContext({ viewport: { width: 700, height: 900 }, colorScheme: "dark", reducedMotion: "reduce" });
    for (const [name, hash] of [
      ["open", "open"], ["atlas", `atlas?r=${given.recording}`], ["map", `map?${at}`], ["row", `row?${at}`], ["received", `row?r=${given.recording}`],
      ["step1", `lesson?${at}`], ["step8", `lesson?${at}&step=8`], ["step9", `lesson?${at}&step=9`], ["why", "lesson?about=why"], ["context", "lesson?about=context"],
      ["rows", `compare?${at}&beside=1`],
    ]) {
      const page = await small.newPage();
      page.on("pageerror", (error) => check("no error in the page", false, error.message));
      await page.goto(`${origin}/?token=${token}#${hash}`);
      await page.waitForTimeout(900);
      const wide = await page.evaluate(() => Math.max(document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll("main, article")].map((one) => one.scrollWidth - one.clientWidth)));
      check(`${name} fits 700 pixels`, wide <= 0, `${wide} too wide`);
      await serious(page, `${name}, narrow and dark`);
      await shot(page, `dark-${name}`);
      await page.close();
    }
    await small.close();
  }

  return [inputsToHeads, threeQuestions, receivedAndCompared, rankedHeads, openedFromThePage, whatIsBuilt, screenReader, narrowAndDark];
}
