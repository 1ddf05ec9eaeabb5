// Asks the worker of an offline page, in node, as the page would: node offline_worker.mjs PAGE.html < paths as JSON
// Prints a JSON list of {status, headers, body}; bodies that are numbers are base64, as "numbers".
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
function element(id) {
  const begin = page.indexOf(`id="${id}">`);
  if (begin < 0) throw new Error(`the page has no #${id}`);
  const start = begin + `id="${id}">`.length;
  return page.slice(start, page.indexOf("</script>", start));
}

const waiting = new Map();
globalThis.self = {
  postMessage(message) {
    if (message.need !== undefined) queueMicrotask(() => self.onmessage({ data: { name: message.need, text: element(`regard-data/${message.need}`) } }));
    else waiting.get(message.id)(message);
  },
};
new Function(element("regard-worker"))();
self.onmessage({ data: { about: element("regard-about") } });

const paths = JSON.parse(readFileSync(0, "utf8"));
const answers = [];
for (const [id, path] of paths.entries()) {
  const { status, headers, body } = await new Promise((done) => {
    waiting.set(id, done);
    self.onmessage({ data: { regard: 1, id, path } });
  });
  answers.push({ status, headers, ...(typeof body === "string" ? { body } : { numbers: Buffer.from(body).toString("base64") }) });
}
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
