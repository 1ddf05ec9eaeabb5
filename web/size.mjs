// What is built weighs, compressed: the page as a browser loads it, and the worker that only an offline page carries.
// More than either limit is an error.
import { gzipSync } from "node:zlib";
import { readdirSync, readFileSync } from "node:fs";

const limits = { page: 60, worker: 8 };
const folder = new URL("../src/regard/export/static/", import.meta.url);
const whole = { page: 0, worker: 0 };
for (const name of readdirSync(folder, { recursive: true, withFileTypes: true })) {
  if (!name.isFile()) continue;
  const size = gzipSync(readFileSync(`${name.parentPath}/${name.name}`), { level: 9 }).length / 1024;
  whole[name.name === "worker.js" ? "worker" : "page"] += size;
  console.log(`${size.toFixed(1).padStart(7)} kB gzip  ${name.name}`);
}
for (const [part, limit] of Object.entries(limits)) {
  console.log(`${whole[part].toFixed(1).padStart(7)} kB gzip  the ${part}; at most ${limit} kB`);
  if (whole[part] > limit) {
    console.error(`the ${part} is too large: leave something out, or make it smaller`);
    process.exitCode = 1;
  }
}
