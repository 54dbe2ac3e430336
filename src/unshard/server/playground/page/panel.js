// One side's answers: they stream in, with what is known of them and ways to copy the request.

import { complete } from "./api.js";
import { byId, make } from "./dom.js";
import { streamed } from "./request.js";
import { AnswerText } from "./text.js";

const ENDINGS = { length: "max_tokens reached", stop: "ended by itself or a stop string" };

export class Panel {
  constructor(letter, { onCopy }) {
    this.element = byId("panel").content.firstElementChild.cloneNode(true);
    this.element.dataset.side = letter;
    this.heading = this.element.querySelector("h2");
    this.request = null; // what the answers shown are answers to
    this.answers = [];
    this.element.addEventListener("click", ({ target }) => {
      if (target.dataset.copy) onCopy(this, target.dataset.copy);
    });
    this.rest();
  }

  set title(text) {
    this.heading.textContent = text;
  }

  set differences(text) {
    this.#part(".differences").textContent = text;
  }

  get text() {
    return this.answers.map((answer) => answer.text).join("\n\n");
  }

  rest() {
    this.#part(".choices").replaceChildren(make("p", { class: "empty" }, "The answer is written here."));
    this.#part("[data-copy=text]").hidden = true;
  }

  // Returns whether the answer is whole; a stopped one is not, and has no problem either.
  async run(body, signal) {
    this.#begin(body);
    try {
      for await (const part of complete(streamed(body), signal)) this.#take(part);
      return true;
    } catch (error) {
      if (error.name !== "AbortError") {
        if (!this.count) this.#part(".choices").replaceChildren();
        throw error;
      }
      this.stopped = true;
      return false;
    } finally {
      this.element.removeAttribute("aria-busy");
      this.#tell();
    }
  }

  complain(text) {
    const problem = this.#part(".problem");
    problem.textContent = text;
    problem.hidden = !text;
  }

  #begin(body) {
    this.request = body;
    this.usage = null;
    this.count = 0;
    this.stopped = false;
    this.reasons = [];
    this.asked = performance.now();
    this.first = this.last = null;
    this.complain("");
    this.element.setAttribute("aria-busy", "true");
    const lead = body.echo ? "" : leadOf(body.prompt);
    const count = body.n ?? 1;
    this.answers = Array.from({ length: count }, (_, i) => new AnswerText(lead, nameOf(i, count)));
    this.#part(".choices").replaceChildren(...this.answers.map(({ element }, i) =>
      make("section", { class: "choice" }, ...(count > 1 ? [make("h3", {}, `${i + 1} of ${count}`)] : []), element)));
    this.#tell();
  }

  #take({ choices, usage }) {
    this.last = performance.now();
    this.first ??= this.last;
    this.usage = usage ?? this.usage;
    for (const { index, text, logprobs, finish_reason: reason } of choices) {
      this.answers[index]?.take(text, logprobs);
      this.count += logprobs?.tokens.length ?? 1;
      if (reason) this.reasons[index] = reason;
    }
    this.#tell();
  }

  #tell() {
    const facts = [];
    const written = this.usage?.completion_tokens ?? this.count;
    // From the question on: events that arrive in one go would tell of any speed.
    const seconds = (this.last - this.asked) / 1000;
    facts.push(this.usage ? `${this.usage.prompt_tokens} + ${written} tokens` : `${written} tokens`);
    if (this.first !== null) facts.push(`first after ${Math.round(this.first - this.asked)} ms`);
    if (written > 1) facts.push(`${(written / seconds).toFixed(0)} tokens/s`);
    if (this.request.seed !== undefined) facts.push(`seed ${this.request.seed}`);
    if (this.stopped) facts.push("stopped");
    else if (this.reasons.length) facts.push([...new Set(this.reasons)].map((each) => ENDINGS[each] ?? each).join("; "));
    this.#part("[data-copy=text]").hidden = !this.text;
    this.#part(".facts").replaceChildren(...facts.map((fact) => make("span", {}, fact)));
  }

  #part = (selector) => this.element.querySelector(selector);
}

const nameOf = (index, count) =>
  (count > 1 ? `Answer ${index + 1} of ${count}` : "Answer") + ", token by token: arrow keys go through it";

// The last words of a prompt, so that an answer is read as what it is: a continuation.
function leadOf(prompt) {
  const line = prompt.slice(prompt.lastIndexOf("\n") + 1);
  const characters = [...line];
  return characters.length > 160 ? `…${characters.slice(-160).join("")}` : line;
}
