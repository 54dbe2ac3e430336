// Puts the page together: state, form, panels, and one run at a time.

import { address, servedModel } from "./api.js";
import { copy, say } from "./copy.js";
import { byId, make } from "./dom.js";
import { installExamples, takeExample } from "./examples.js";
import { briefly, Form } from "./form.js";
import { apiKey, installKey } from "./key.js";
import { Panel } from "./panel.js";
import { STEPS } from "./probability.js";
import { drawSeed, requestBody } from "./request.js";
import { asCurl, asPython } from "./snippets.js";
import { fromHash, initialSettings, initialState, toHash } from "./state.js";
import { installTheme } from "./theme.js";
import { hide, installTips } from "./tip.js";

const load = async (name) => (await fetch(new URL(name, import.meta.url))).json();
const [fields, examples] = await Promise.all([load("fields.json"), load("examples.json")]);

const opening = examples.at(-1);
let state = fromHash(location.hash, fields) ?? initialState(fields, opening.prompt);
let side = "a";
let model;
let running = null;

const prompt = byId("prompt");
const form = new Form(fields, (name, value) => {
  state[side][name] = value;
  form.complain(name, "");
  changed();
});
const panels = Object.fromEntries(["a", "b"].map((letter) => [letter, new Panel(letter, { onCopy })]));
byId("panels").append(panels.a.element, panels.b.element);

const sides = () => (state.compare ? ["a", "b"] : ["a"]);
const otherOf = (letter) => (letter === "a" ? "b" : "a");

function show() {
  if (!state.compare) side = "a";
  const other = otherOf(side);
  if (prompt.value !== state.prompt) prompt.value = state.prompt;
  byId("compare").checked = state.compare;
  byId("sides").hidden = !state.compare;
  document.querySelector(`input[name=side][value=${side}]`).checked = true;
  form.show(state[side], state.compare ? state[other] : null, other.toUpperCase());
  byId("panels").classList.toggle("two", state.compare);
  panels.b.element.hidden = !state.compare;
  for (const letter of ["a", "b"]) {
    panels[letter].title = state.compare ? letter.toUpperCase() : "Answer";
    panels[letter].differences = state.compare ? differences(letter) : "";
  }
}

function differences(letter) {
  const named = fields.filter(({ name }) => state.a[name] !== state.b[name]);
  if (!named.length) return letter === "b" ? "same settings as A: change them under Settings, B" : "";
  return named.map(({ name }) => `${name} ${briefly(state[letter][name])}`).join(" · ");
}

// The address is the state: a reload keeps it, and the link can be given away.
let saving = 0;
function changed() {
  show();
  clearTimeout(saving);
  saving = setTimeout(save, 250);
}

function save() {
  clearTimeout(saving);
  history.replaceState(null, "", toHash(state, fields));
}

const bodyOf = (letter, seed) =>
  requestBody(fields, { model: model?.id, prompt: state.prompt, settings: state[letter], seed });

async function run() {
  running = new AbortController();
  hide();
  form.calm();
  save();
  showRunning();
  // One seed for both sides: what differs between them is the settings.
  const seed = drawSeed();
  const whole = await Promise.all(sides().map((letter) => runSide(letter, seed, running.signal)));
  byId("status").textContent = running.signal.aborted ? "Stopped." : whole.every(Boolean) ? "The answer is written." : "";
  running = null;
  showRunning();
}

async function runSide(letter, seed, signal) {
  const panel = panels[letter];
  try {
    return await panel.run(bodyOf(letter, seed), signal);
  } catch (error) {
    panel.complain(error.message);
    if (error.param && letter === side) form.complain(error.param, error.message);
    if (error.status === 401) byId("access").open = true;
    return false;
  }
}

function showRunning() {
  byId("run").classList.toggle("running", running !== null);
  byId("run-label").textContent = running ? "Stop" : "Write";
  if (running) byId("status").textContent = "Writing …";
}

const runOrStop = () => (running ? running.abort() : run());

function onCopy(panel, what) {
  if (what === "text") return copy(panel.text, "Text copied");
  let request;
  try {
    request = panel.request ?? bodyOf(panel.element.dataset.side);
  } catch (error) {
    return panel.complain(error.message);
  }
  const keyed = apiKey() !== "";
  if (what === "curl") return copy(asCurl(address("v1/completions"), request, keyed), "Command copied");
  return copy(asPython(address("v1"), request, keyed), "Program copied");
}

async function lookUpModel() {
  try {
    model = await servedModel();
  } catch (error) {
    byId("model").textContent = error.message;
    if (error.status === 401) byId("access").open = true;
    return;
  }
  const context = model.max_model_len;
  byId("model").replaceChildren(make("strong", {}, model.id), context ? ` · ${context} tokens of context` : "");
  if (context) form.reach(context);
}

installExamples(examples, (example) => {
  takeExample(state, example, fields);
  changed();
  prompt.focus();
});
byId("legend").append(...STEPS.map(([, label], step) =>
  make("li", {}, make("span", { class: "swatch", "data-step": step }), label)));
prompt.addEventListener("input", () => {
  state.prompt = prompt.value;
  changed();
});
byId("run").addEventListener("click", runOrStop);
byId("compare").addEventListener("change", ({ target }) => {
  state.compare = target.checked;
  if (state.compare) state.b = { ...state.a };
  side = state.compare ? "b" : "a";
  changed();
});
byId("sides").addEventListener("change", ({ target }) => {
  side = target.value;
  form.calm();
  show();
});
byId("reset").addEventListener("click", () => {
  state[side] = initialSettings(fields);
  form.calm();
  changed();
});
byId("share").addEventListener("click", () => {
  save();
  copy(location.href, "Link copied");
});
byId("to-settings").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the state's
  byId("settings").scrollIntoView();
  byId("settings").focus({ preventScroll: true });
});
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) run();
  else if (event.key === "Escape" && running) running.abort();
});
addEventListener("hashchange", () => {
  const linked = fromHash(location.hash, fields);
  if (!linked) return;
  state = linked;
  show();
  say("Settings taken from the link");
});

installTheme();
installTips();
installKey(lookUpModel);
show();
await lookUpModel();
