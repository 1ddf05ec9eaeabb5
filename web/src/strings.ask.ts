// The sentences of the lesson's questions, and of what it asks.

export const names = {
  words: "Can I see a simple example?",
  why: "Why separate query, key and value vectors?",
  context: "How does attention help a model understand context?",
};
export const first = "Predict first";
export const reveal = "Reveal";
export const guess = (name: string) => `Your guess of ${name}`;
export const off = (guess: string, by: string) => `you said ${guess}, off by ${by}`;
