import { defineConfig } from "vite";

const server = process.env.REGARD_SERVER ?? "http://127.0.0.1:8765";

export default defineConfig({
  build: {
    outDir: "../src/regard/explorer/static",
    emptyOutDir: true,
    target: "es2022",
    // One script and one style sheet, no inline code: a strict Content-Security-Policy holds.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  // `npm run mock` (or a real `regard explore`, named by REGARD_SERVER) answers while one works on the page.
  server: { proxy: { "/api": { target: server, changeOrigin: true } } },
});
