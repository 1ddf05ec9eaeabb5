// Where a number of the lesson came from, and where it goes.

export const q = (i: number, at: number) => [`component ${i} of the query of token ${at}, from the recording`, "one product of step 2"];
export const k = (i: number, at: number) => [`component ${i} of the key of token ${at}, from the recording`, "one product of step 2"];
export const product = (q: string, k: string, i: number) => [`q${i} × k${i} = ${q} × ${k}`, "the dot product"];
export const running = (n: number) => [`the first ${n} lines of this table, added`, "the next line's sum"];
export const dot = (n: number) => [`the sum of all ${n} products`, "the scaled score: × scale"];
export const scale = (d: number) => [`1 ÷ √${d} by default`, "every score of this head"];
export const bias = (bias: string | null | undefined) => [bias ?? "the layer's bias", "this score"];
export const entropy = ["−Σ weight × ln weight over the row, in nats: 0 for one key, ln n for n keys alike", "nothing: it says how spread the row is"];
export const mapped = ["exp(score − lse), as on the map", "weight × value, in the output of this query"];
export const changed = ["the softmax of the changed scores, worked by the page", "nothing: the recording stays as it is"];
export const sink = ["exp(sink − largest): learned, one for each head", "the row's sum, so that the weights of the keys need not sum to 1"];
export const others = ["1 − the weights above", "weight × value of those keys, in the output"];
export const max = ["the largest score of the row", "every score of the row, less this"];
export const scaled = (dot: string, scale: string) => [`dot × scale = ${dot} × ${scale}`, "soft-cap and bias where there are any, then the mask"];
export const score = (parts: string) => [parts, "the softmax of its row"];
export const shifted = (score: string, max: string) => [`score − largest = ${score} − ${max}`, "exp"];
export const exp = (shifted: string) => [`exp(${shifted})`, "the row's sum, and this weight"];
export const sum = ["exp of every key that the query sees, added, and of the sink where there is one", "every weight of the row is divided by it"];
export const weight = (exp: string, sum: string) => [`exp ÷ sum = ${exp} ÷ ${sum}`, "weight × value, in the output of this query"];
export const value = (i: number, at: number) => [`component ${i} of the value of token ${at}, from the recording`, "weight × value"];
export const out = (i: number) => [`Σ weight × value, component ${i}, over every key`, "the concatenated heads"];
