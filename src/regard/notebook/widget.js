// The explorer's page in a frame of a notebook. The page asks by messages; the kernel answers them (widget.py).
// A view's numbers begin with its own name: the answers to all views of a widget come to each of them.

const theme = () => {
  const { body } = document;
  const said = body?.dataset.jpThemeLight ?? body?.dataset.vscodeThemeKind ?? "";
  if (said === "true" || /light/.test(said)) return "light";
  if (said === "false" || /dark/.test(said)) return "dark";
  return getComputedStyle(document.documentElement).colorScheme || "normal";
};

export default {
  render({ model, el }) {
    const view = Math.random().toString(36).slice(2);
    const frame = document.createElement("iframe");
    frame.title = "regard: a map of attention";
    // Scripts and saved files, but nothing of the notebook: its origin stays closed to the page.
    frame.setAttribute("sandbox", "allow-scripts allow-downloads allow-modals");
    frame.setAttribute("allow", "clipboard-write; fullscreen");
    const fit = () => {
      frame.style.cssText = `width:100%;height:${model.get("height")}px;border:0;display:block;color-scheme:${theme()}`;
    };
    fit();
    el.append(frame);

    let told = ""; // the place that the page is at, as far as it is known
    const toPage = (message, transfer = []) => frame.contentWindow?.postMessage({ regard: 1, ...message }, "*", transfer);
    const go = () => {
      if (model.get("place") !== told) toPage({ go: (told = model.get("place")) });
    };
    const waiting = new Set();

    async function fromPage({ source, data }) {
      if (source !== frame.contentWindow || data?.regard !== 1) return;
      if (data.ready) {
        told = "";
        go();
      } else if ("place" in data) {
        told = data.place;
        model.set("place", told);
        model.save_changes();
      } else if ("cancel" in data) {
        waiting.delete(`${view}:${data.cancel}`);
        model.send({ regard: 1, cancel: `${view}:${data.cancel}` });
      } else {
        const { id, path, method = "GET", body } = data;
        const text = typeof body === "string";
        const bytes = body === undefined ? null : text ? new TextEncoder().encode(body).buffer : await new Blob([body]).arrayBuffer();
        const kind = bytes && (text ? "application/json" : "application/octet-stream");
        waiting.add(`${view}:${id}`);
        model.send({ regard: 1, id: `${view}:${id}`, path, method, ...(kind && { kind }) }, undefined, bytes ? [bytes] : []);
      }
    }

    function fromKernel(content, buffers) {
      if (content?.regard !== 1) return;
      const { id, status, headers } = content;
      const { buffer, byteOffset = 0, byteLength } = buffers?.[0] ?? new Uint8Array(0);
      const body = buffer ? buffer.slice(byteOffset, byteOffset + byteLength) : buffers[0];
      if (id === `${view}:page`) frame.srcdoc = new TextDecoder().decode(body);
      else if (waiting.delete(id)) {
        const json = (headers["content-type"] ?? "").includes("json");
        const answer = { id: Number(id.slice(view.length + 1)), status, headers };
        if (json) toPage({ ...answer, body: new TextDecoder().decode(body) });
        else toPage({ ...answer, body }, [body]);
      }
    }

    addEventListener("message", fromPage);
    model.on("msg:custom", fromKernel);
    model.on("change:place", go);
    model.on("change:height", fit);
    model.send({ regard: 1, want: "page", id: `${view}:page` });

    return () => {
      removeEventListener("message", fromPage);
      model.off("msg:custom", fromKernel);
      model.off("change:place", go);
      model.off("change:height", fit);
      for (const id of waiting) model.send({ regard: 1, cancel: id });
      frame.remove();
    };
  },
};
