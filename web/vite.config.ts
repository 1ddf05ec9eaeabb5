import { build, defineConfig, type Plugin } from "vite";

const server = process.env.REGARD_SERVER ?? "http://127.0.0.1:8765";

/** Builds the offline page's worker beside the page: one script that imports nothing, under a name that does not change. */
function worker(): Plugin {
  let outDir = "";
  return {
    name: "worker",
    apply: "build",
    configResolved: (config) => void (outDir = config.build.outDir),
    async closeBundle() {
      const lib = { entry: "src/offline/worker.ts", formats: ["iife" as const], name: "regard", fileName: () => "assets/worker.js" };
      await build({ configFile: false, build: { outDir, emptyOutDir: false, target: "es2022", lib } });
    },
  };
}

export default defineConfig({
  build: {
    outDir: "../src/regard/export/static",
    emptyOutDir: true,
    target: "es2022",
    // One script and one style sheet, no inline code: a strict Content-Security-Policy holds.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
  },
  plugins: [worker()],
  // Classic: element(…) compresses better than the automatic jsx(…), by more than half a kilobyte.
  oxc: { jsx: { runtime: "classic", pragma: "element", pragmaFrag: "Fragment" }, jsxInject: 'import { h as element, Fragment } from "preact"' },
  // A server that runs: `regard explore tests/web/corpus/recording.safetensors --port 8765`, or the one that REGARD_SERVER names.
  server: { proxy: { "/api": { target: server, changeOrigin: true } } },
});
