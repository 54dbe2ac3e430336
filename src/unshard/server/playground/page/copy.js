// The clipboard, and a word that it worked.

import { byId, make } from "./dom.js";

export async function copy(text, done) {
  const copied = navigator.clipboard ? await modern(text) : old(text);
  say(copied ? done : "The browser did not let the page copy.");
}

export function say(text) {
  byId("status").textContent = text;
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (toast.hidden = true), 2500);
}

const modern = (text) => navigator.clipboard.writeText(text).then(() => true, () => false);

// Over plain http from another machine, browsers have only the old way.
function old(text) {
  const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}
