// What each step of the lesson says.

export const projected = "Each token's vector x is multiplied by three learned matrices. The query asks, the key answers to questions, the value is what gets passed on.";
export const vectors = `${projected} The recording holds q and k of every token, as the model computed them.`;
export const dot = "Each component of the query is multiplied by the same component of the key; the sum of the products is the score. Large: they point the same way.";
export const largest = (n: number, rest: number) => `The ${n} largest of ${n + rest} products; the other ${rest} are summed exactly.`;
export const rest = (n: number) => `the other ${n}`;
export const all = "All products";
export const edited = "Edited: this sum is the page's, on your numbers.";
export const scale = "A sum of d products grows like √d. Divided by √d, scores keep the same spread for any size, so that the softmax does not harden.";
export const without = "Leave out ÷ √d";
export const unscaled = "This layer does not divide: its scale is 1, and q and k have learned their size.";
export const mask = "Hide a key, and its weight is shared among the others. Keys that the model's own mask hides cannot be given back: a recording never computed them.";
export const max = "exp of a large number overflows. Less the row's largest score, every score is 0 or below; the weights do not change.";
export const exp = "exp makes every score positive: 0 becomes 1, each step of −0.69 halves it.";
export const sum = "Each divided by the sum of all: weights between 0 and 1, and the row sums to 1.";
export const out = "Each value vector is multiplied by its weight, and all are added. The output is between the values that the query looked at.";
export const noValues = "This recording holds no values for this layer. regard record --values keeps them.";
export const heads = "Every head of a layer does all this with its own matrices, side by side. Their outputs are put end to end and multiplied by one more matrix.";
