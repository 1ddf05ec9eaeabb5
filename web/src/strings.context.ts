// How does attention help a model understand context?

export const lead = "The same word in two lines. Going in, its vector is the same in both: the model knows only which word it is. In each layer it attends to what stands before it, and the two vectors part: each now carries its line with it.";
export const a = "First line";
export const b = "Second line";
export const go = "Compare";
export const token = (text: string, model: string) => `“${text}” in both lines, as the model “${model}” reads them`;
export const cosine = "How alike its two vectors are";
export const cosineText = "The cosine of the word's vector in one line with its vector in the other: 1 is the same direction.";
export const before = "before the first layer";
export const after = (layer: number) => `after layer ${layer}`;
export const from = (layer: number) => [layer ? `the hidden state of the token after layer ${layer - 1}, in both lines: their dot product ÷ the product of their lengths` : "the token's embedding, in both lines", layer ? "the next layer" : "layer 0"];
export const heads = "Where the heads look from it";
export const headsText = "How far apart a head's two rows lie: the share of weight that is on other words. Click one.";
export const head = (layer: number, head: number) => `layer ${layer}, head ${head}`;
export const sees = (which: string, head: string) => `${which}: what the word sees, ${head}`;
export const weight = (text: string) => [`this head's weight on “${text}”, exp ÷ sum as in step 7`, "weight × value, in the word's output"];
