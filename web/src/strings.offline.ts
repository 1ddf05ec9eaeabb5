// What the page says of its offline copy.
import { bytes, count } from "./pure/numbers";

export const OFFLINE = {
  title: "Offline page",
  dtypes: { "": "as recorded, or float16 where that is large", float32: "float32", bfloat16: "bfloat16", float16: "float16" },
  whole: "all heads",
  values: "with values",
  numbers: "numbers",
  heads: "heads",
  save: "Save",
  asking: "measuring …",
  size: (size: number, dtype: string, error: string, layers: readonly number[]) =>
    `${bytes(size)}: one file that needs no server, ${count(layers.length)} ${layers.length === 1 ? "layer" : "layers"}, queries and keys in ${dtype}; ${error}`,
  already: "This is one already: a file of its own, which asks nobody.",
};
