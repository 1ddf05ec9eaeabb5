// From a tone between 0 and 1 to a colour.

const ANCHORS = {
  viridis: "440154 482878 3e4a89 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
  cividis: "00204d 00336f 39486b 575c6d 707173 8a8779 a69d75 c4b56c e4cf5b ffea46",
  grey: "161616 f4f4f4",
  signed: "2a63b0 4f93cf 94c0e2 d3e3ee f4f3f0 f5dccb eeaf88 d97550 b43a32",
  signedDark: "a9d2ff 6fb0f0 3c7fc0 25496d 1c2128 6b3a2c b3593d e58a62 ffc9a8",
} as const;

export type Ramp = Exclude<keyof typeof ANCHORS, "signed" | "signedDark">;
export const RAMPS = ["viridis", "cividis", "grey"] as const satisfies readonly Ramp[];

/** 256 colours, red, green, blue, opaque: linear between the anchors. */
export function colourTable(ramp: keyof typeof ANCHORS): Uint8Array<ArrayBuffer> {
  const anchors = ANCHORS[ramp].split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const out = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (anchors.length - 1);
    const low = Math.min(Math.floor(at), anchors.length - 2);
    for (let c = 0; c < 3; c++) {
      const [a, b] = [anchors[low]![c]!, anchors[low + 1]![c]!];
      out[4 * i + c] = Math.round(a + (b - a) * (at - low));
    }
    out[4 * i + 3] = 255;
  }
  return out;
}

/** The colour of a tone, as CSS. */
export function css(table: Uint8Array, tone: number): string {
  const i = 4 * Math.min(Math.max(Math.round(tone * 255), 0), 255);
  return `rgb(${table[i]} ${table[i + 1]} ${table[i + 2]})`;
}

/** Black or white, whichever is easier to read on a tone. */
export function textColour(table: Uint8Array, tone: number): "#000" | "#fff" {
  const i = 4 * Math.min(Math.max(Math.round(tone * 255), 0), 255);
  const linear = [0, 1, 2].map((c) => (table[i + c]! / 255) ** 2.2);
  return 0.2126 * linear[0]! + 0.7152 * linear[1]! + 0.0722 * linear[2]! > 0.179 ? "#000" : "#fff";
}
