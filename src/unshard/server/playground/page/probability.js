// Probabilities in words and in six steps of colour.

export const STEPS = [
  [0.9, "90 % and up"],
  [0.5, "50–90 %"],
  [0.2, "20–50 %"],
  [0.05, "5–20 %"],
  [0.01, "1–5 %"],
  [0, "below 1 %"],
];

export const stepOf = (logprob) => STEPS.findIndex(([from]) => Math.exp(logprob) >= from);

export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share < 0.01) return "< 0.01 %";
  return `${share.toFixed(share < 1 ? 2 : 1)} %`;
}

// Spaces and line ends of a token, made visible.
export const visible = (token) =>
  token.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "∅";
