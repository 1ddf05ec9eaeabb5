// What the built page weighs, compressed; more than the limit is an error.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const limit = 60 * 1024;
const folder = new URL("../src/regard/explorer/static/", import.meta.url);
let whole = 0;
for (const name of readdirSync(folder, { recursive: true, withFileTypes: true })) {
  if (!name.isFile()) continue;
  const size = gzipSync(readFileSync(`${name.parentPath}/${name.name}`), { level: 9 }).length;
  whole += size;
  console.log(`${(size / 1024).toFixed(1).padStart(7)} kB gzip  ${name.name}`);
}
console.log(`${(whole / 1024).toFixed(1).padStart(7)} kB gzip  in all; at most ${limit / 1024} kB`);
if (whole > limit) {
  console.error("the page is too large: leave something out, or make it smaller");
  process.exit(1);
}
