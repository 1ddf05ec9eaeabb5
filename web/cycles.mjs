// Fails where modules of src/ import each other in a circle; imports of types count too.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("src/", import.meta.url));
const modules = new Map();
for (const name of readdirSync(root, { recursive: true })) {
  if (/\.tsx?$/.test(name)) modules.set(name.replace(/\.tsx?$/, ""), readFileSync(join(root, name), "utf8"));
}

/** The modules of src/ that a module imports. */
function importsOf(module) {
  const specifiers = [...modules.get(module).matchAll(/\b(?:from|import)\s*\(?\s*"(\.[^"]*)"/g)].map((match) => match[1]);
  return specifiers.map((specifier) => normalize(join(dirname(module), specifier))).flatMap((path) => [path, join(path, "index")].filter((name) => modules.has(name)));
}

const finished = new Set();
const cycles = [];

/** Depth first: an import of a module that is still on the path closes a circle. */
function visit(module, path) {
  if (path.includes(module)) {
    cycles.push([...path.slice(path.indexOf(module)), module]);
    return;
  }
  if (finished.has(module)) return;
  for (const imported of importsOf(module)) visit(imported, [...path, module]);
  finished.add(module);
}

for (const module of modules.keys()) visit(module, []);
for (const cycle of cycles) console.error(`import circle: ${cycle.join(" → ")}`);
if (cycles.length) process.exitCode = 1;
else console.log(`${modules.size} modules, no import circle`);
