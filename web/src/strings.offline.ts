// What the page says of its offline copy.
import { bytes } from "./pure/numbers";

export const OFFLINE = {
  title: "Offline page: one file that needs no server",
  one: (layer: number, head: number) => `only layer ${layer}, head ${head}`,
  values: "with values, for the lesson's last steps",
  save: "Save",
  asking: "measuring …",
  size: (size: number, dtype: string, error: string) => `${bytes(size)}, queries and keys in ${dtype}: ${error}`,
  already: (error: string) => `This page is a file that needs no server: all its numbers are in it. ${error}`,
};
