// What is known of a token, beside it: on hover, focus and tap; arrow keys go from one to the next.

import { byId, make } from "./dom.js";
import { percent, visible } from "./probability.js";
import { scores } from "./text.js";

const HIDE_AFTER_MS = 150; // time for the pointer to reach the tip itself
let shown = null;
let hiding = 0;

export function installTips() {
  const tip = byId("tip");
  document.addEventListener("pointerover", ({ target }) => {
    const token = target.closest(".token");
    if (token) show(token);
    else if (target.closest("#tip")) clearTimeout(hiding);
  });
  document.addEventListener("pointerout", ({ target }) => {
    if (target.closest(".token, #tip") && document.activeElement !== shown) {
      hiding = setTimeout(hide, HIDE_AFTER_MS);
    }
  });
  document.addEventListener("focusin", ({ target }) => {
    if (target.matches(".token")) show(target);
  });
  document.addEventListener("focusout", ({ target }) => {
    if (target.matches(".token")) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !tip.hidden) {
      event.stopPropagation();
      hide();
    }
    if (event.target.matches(".token")) move(event);
  }, { capture: true });
  for (const change of ["scroll", "resize"]) addEventListener(change, () => shown && place(tip, shown), { passive: true });
}

export function hide() {
  clearTimeout(hiding);
  shown?.removeAttribute("aria-describedby");
  shown?.classList.remove("shown");
  shown = null;
  byId("tip").hidden = true;
}

function show(token) {
  clearTimeout(hiding);
  if (token === shown) return;
  hide();
  shown = token;
  token.classList.add("shown");
  token.setAttribute("aria-describedby", "tip");
  const tip = byId("tip");
  tip.replaceChildren(...describe(scores.get(token)));
  tip.hidden = false;
  place(tip, token);
}

function describe({ token, logprob, top, place: index }) {
  const head = make("p", { class: "tip-head" }, make("code", {}, visible(token)));
  if (logprob === null) {
    return [head, make("p", { class: "tip-note" }, "The first token: nothing came before it.")];
  }
  head.append(make("strong", {}, percent(logprob)));
  const ranked = Object.entries(top).sort(([, one], [, other]) => other - one);
  const list = make("ol", {}, ...ranked.map(([each, score]) => alternative(each, score, each === token)));
  const note = `token ${index + 1} · logprob ${logprob.toFixed(3)}`;
  return [head, list, make("p", { class: "tip-note" }, note)];
}

function alternative(token, logprob, chosen) {
  const bar = make("span", { class: "share" });
  bar.style.setProperty("--share", Math.exp(logprob));
  return make(
    "li",
    { class: chosen ? "chosen" : null },
    make("code", {}, visible(token)),
    bar,
    make("span", { class: "percent" }, percent(logprob)),
  );
}

// Below the token, or above where there is no room; never beyond the window.
function place(tip, token) {
  const box = token.getClientRects()[0] ?? token.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left - 12, document.documentElement.clientWidth - width - 8));
  const below = box.bottom + 6;
  const top = below + height < innerHeight - 8 ? below : Math.max(8, box.top - height - 6);
  tip.style.setProperty("--left", `${left}px`);
  tip.style.setProperty("--top", `${top}px`);
}

function move(event) {
  const tokens = [...event.target.parentElement.querySelectorAll(".token")];
  const here = tokens.indexOf(event.target);
  const goal = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (goal === undefined) return;
  event.preventDefault();
  const next = tokens[Math.max(0, Math.min(tokens.length - 1, goal))];
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
