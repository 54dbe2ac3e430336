// What a visitor has set up, and the same as the part of a link behind `#`.

export const initialSettings = (fields) =>
  Object.fromEntries(fields.map(({ name, initial }) => [name, initial]));

export const initialState = (fields, prompt) => ({
  prompt,
  compare: false,
  a: initialSettings(fields),
  b: initialSettings(fields),
});

// Only what was changed, in words: #prompt=…&a.temperature=0.7&compare=1&b.top_p=0.5
export function toHash(state, fields) {
  const said = new URLSearchParams({ prompt: state.prompt });
  if (state.compare) said.set("compare", "1");
  for (const side of state.compare ? ["a", "b"] : ["a"]) {
    for (const { name, initial } of fields) {
      const value = state[side][name];
      if (value !== initial) said.set(`${side}.${name}`, value ?? "");
    }
  }
  return `#${said}`;
}

// Null where the link says nothing. What it says wrongly is left at its initial value.
export function fromHash(hash, fields) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  if (!said.has("prompt")) return null;
  const state = initialState(fields, said.get("prompt"));
  state.compare = said.get("compare") === "1";
  for (const side of ["a", "b"]) {
    for (const { name, kind, initial } of fields) {
      const text = said.get(`${side}.${name}`);
      if (text !== null) state[side][name] = READ[kind](text, initial);
    }
  }
  return state;
}

function number(text, initial) {
  if (text.trim() === "") return null;
  return Number.isFinite(Number(text)) ? Number(text) : initial;
}

const READ = {
  number,
  integer: number,
  switch: (text) => text === "true",
  lines: (text) => text,
  biases: (text) => text,
};
