// One answer as it grows: its text in tokens, each coloured by its probability.

import { make } from "./dom.js";
import { stepOf, visible } from "./probability.js";

// What a token's element stands for: { token, logprob, top, place }.
export const scores = new WeakMap();

export class AnswerText {
  // `lead` is what the answer goes on from, shown in front and not part of it.
  constructor(lead, name) {
    this.element = make("div", { class: "text", role: "group", "aria-label": name });
    if (lead) this.element.append(make("span", { class: "lead" }, lead));
    this.text = "";
    this.tokens = [];
    // Offsets count characters as Python does, not JavaScript's UTF-16 units.
    this.characters = [];
  }

  take(text, logprobs) {
    this.text += text;
    if (!logprobs) {
      this.element.append(text);
      return;
    }
    for (const character of text) this.characters.push(character);
    const first = this.tokens.length;
    logprobs.tokens.forEach((token, i) => this.#append(token, logprobs, i));
    // The last token may have begun a character that is only now whole.
    for (const token of this.tokens.slice(Math.max(0, first - 1))) this.#fill(token);
  }

  #append(token, { token_logprobs, top_logprobs, text_offset }, i) {
    const place = this.tokens.length;
    const logprob = token_logprobs[i];
    const element = make("span", {
      class: "token",
      tabindex: place ? "-1" : "0",
      "data-step": logprob === null ? null : stepOf(logprob),
    });
    scores.set(element, { token, logprob, top: top_logprobs[i], place });
    this.tokens.push({ element, token, place, start: text_offset[i] });
    this.element.append(element);
  }

  #fill(token) {
    const end = this.tokens[token.place + 1]?.start;
    const piece = this.characters.slice(token.start, end).join("");
    token.element.textContent = piece;
    token.element.toggleAttribute("data-newline", piece.startsWith("\n"));
    // A token without text of its own: </s>, a part of a character, what a stop string cut off.
    if (piece === "") token.element.dataset.unseen = visible(token.token);
    else delete token.element.dataset.unseen;
  }
}
