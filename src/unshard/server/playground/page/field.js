// One field of the request as a control: a number with a slider, a list of lines, or a switch.

import { make } from "./dom.js";

export class Field {
  constructor(field, onChange) {
    Object.assign(this, field);
    this.input = this.#input();
    this.slider = this.slide && this.#slider();
    this.other = make("span", { class: "other" });
    this.problem = make("p", { class: "field-problem", id: `${this.name}-problem`, hidden: true });
    this.element = make(
      "div",
      { class: `field of-${this.kind}` },
      make("div", { class: "field-head" }, make("label", { for: this.name }, this.name), this.other, this.input),
      ...(this.slider ? [this.slider] : []),
      make("p", { class: "help", id: `${this.name}-help` }, this.help),
      this.problem,
    );
    this.value = this.initial;
    this.input.addEventListener("input", () => {
      this.#slideTo(this.value);
      onChange(this.name, this.value);
    });
    this.slider?.addEventListener("input", () => {
      this.input.value = this.slider.value;
      onChange(this.name, this.value);
    });
  }

  get value() {
    if (this.kind === "switch") return this.input.checked;
    if (this.kind === "lines" || this.kind === "biases") return this.input.value;
    return this.input.value === "" ? null : this.input.valueAsNumber;
  }

  set value(value) {
    if (this.kind === "switch") this.input.checked = value;
    else this.input.value = value ?? "";
    this.#slideTo(value);
  }

  // The longest text that the model can hold is the end of this slider.
  reach(limit) {
    this.slider.max = limit;
    this.#slideTo(this.value);
  }

  // `text` is what is wrong with the value, or "".
  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
    if (text) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
    if (text) this.element.closest("details").open = true;
  }

  #input() {
    const common = {
      id: this.name,
      name: this.name,
      placeholder: this.placeholder,
      autocomplete: "off",
      "aria-describedby": `${this.name}-help ${this.name}-problem`,
    };
    if (this.kind === "switch") return make("input", { ...common, type: "checkbox", role: "switch" });
    if (this.kind === "lines" || this.kind === "biases") {
      return make("textarea", { ...common, rows: "2", spellcheck: "false" });
    }
    const step = this.kind === "integer" ? "1" : "any";
    return make("input", { ...common, type: "number", min: this.min ?? this.above, max: this.max, step });
  }

  #slider() {
    const [min, max, step] = this.slide;
    return make("input", { type: "range", min, max, step, "aria-label": `${this.name}, slider` });
  }

  #slideTo(value) {
    if (this.slider) this.slider.value = value ?? this.default ?? this.slide[0];
  }
}
