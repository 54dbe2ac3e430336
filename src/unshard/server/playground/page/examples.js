// The example prompts, and what becomes of the settings when one is taken.

import { byId, make } from "./dom.js";
import { initialSettings } from "./state.js";

export function installExamples(examples, onTake) {
  const buttons = examples.map((example) => {
    const button = make("button", { type: "button", class: "quiet small" }, example.kind);
    button.addEventListener("click", () => onTake(example));
    return button;
  });
  byId("examples").append(...buttons);
}

export function takeExample(state, { prompt, settings }, fields) {
  state.prompt = prompt;
  const { max_tokens, stop = "" } = settings;
  // Two sides keep what they were set to differ in.
  if (state.compare) for (const side of [state.a, state.b]) Object.assign(side, { max_tokens, stop });
  else state.a = { ...initialSettings(fields), ...settings };
}
