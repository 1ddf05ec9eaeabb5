// What is known of recordings other than the one that is open.
import { signal } from "@preact/signals";
import { json, paths, type Recording } from "../api";
import { fail } from "../state";

const known = signal<Record<string, Recording | null>>({});

/** A recording's description, once it has come. */
export function resourceOf(id: string): Recording | null {
  const held = known.value[id];
  if (held === undefined && id)
    queueMicrotask(() => {
      if (id in known.peek()) return;
      known.value = { ...known.peek(), [id]: null };
      json<Recording>(paths.recording(id)).then((told) => (known.value = { ...known.peek(), [id]: told }), fail);
    });
  return held ?? null;
}
