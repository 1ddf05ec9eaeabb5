// Why separate query, key and value vectors?

export const lead = "A query says what a word looks for, a key what it can be found by, a value what it passes on. Tied together, one vector has two jobs. Try it on both sides: type other numbers into the vectors.";
export const task = (a: string, b: string) => `Make “${a}” find “${b}”, a score above 2, while “${b}” does not find “${a}”, a score of 0 or less.`;
export const pair = "Two words";
export const separate = "Separate: a query and a key for each word";
export const tied = "Tied: one vector for both";
export const q = (word: string) => `q of ${word}`;
export const k = (word: string) => `k of ${word}`;
export const both = (word: string) => `q = k of ${word}`;
export const score = (a: string, b: string) => `${a} → ${b}`;
export const done = "Done. The relation has a direction.";
export const open = "Not yet: change the vectors.";
export const never = "It cannot be done: both scores are the same products in another order, so they are equal whatever you type.";
export const value = "And why a value of its own?";
export const valueText = (word: string) => `A key is an address; a value is the letter. With k for v, “${word}” would receive the addresses of the words that it found, not what they say.`;
export const withV = "Σ weight × v";
export const withK = "Σ weight × k instead";
export const again = "As at first";
export const goes = "compared with the score the other way round; then scaled, masked and made a weight";
export const mixedGoes = (word: string) => `what “${word}” receives in this head`;
