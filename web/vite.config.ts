import { defineConfig } from "vite";

const server = process.env.REGARD_SERVER ?? "http://127.0.0.1:8765";
const outDir = "../src/regard/explorer/static";

// Two builds: the page, and with `--mode worker` the offline page's worker, one script that imports nothing.
export default defineConfig(({ mode }) => {
  if (mode === "worker")
    return {
      define: { "process.env.NODE_ENV": '"production"' },
      build: {
        outDir,
        emptyOutDir: false,
        target: "es2022",
        lib: { entry: "src/offline/worker.ts", formats: ["iife"], name: "regard", fileName: () => "assets/worker.js" },
      },
    };
  return {
    build: {
      outDir,
      emptyOutDir: true,
      target: "es2022",
      // One script and one style sheet, no inline code: a strict Content-Security-Policy holds.
      modulePreload: { polyfill: false },
      assetsInlineLimit: 0,
    },
    // Classic: element(…) compresses better than the automatic jsx(…), by half a kilobyte.
    oxc: { jsx: { runtime: "classic", pragma: "element", pragmaFrag: "Fragment" }, jsxInject: 'import { h as element, Fragment } from "preact"' },
    // `npm run mock` (or a real `regard explore`, named by REGARD_SERVER) answers while one works on the page.
    server: { proxy: { "/api": { target: server, changeOrigin: true } } },
  };
});
