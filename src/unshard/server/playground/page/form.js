// The settings of one side, as controls.

import { byId } from "./dom.js";
import { Field } from "./field.js";

export class Form {
  constructor(fields, onChange) {
    this.fields = new Map(fields.map((each) => [each.name, new Field(each, onChange)]));
    for (const field of this.fields.values()) byId(`group-${field.group}`).append(field.element);
  }

  // `other` are the settings to compare with, `letter` whose they are.
  show(settings, other, letter) {
    for (const [name, field] of this.fields) {
      if (field.value !== settings[name]) field.value = settings[name];
      const differs = other && other[name] !== settings[name];
      field.other.textContent = differs ? `${letter}: ${briefly(other[name])}` : "";
    }
  }

  reach(limit) {
    for (const name of ["max_tokens", "min_tokens"]) this.fields.get(name).reach(limit);
  }

  complain(name, text) {
    // A part of a field is named like `stop.0`.
    const [field] = name.split(".");
    this.fields.get(field)?.complain(text.replace(`${name}: `, ""));
  }

  calm() {
    for (const field of this.fields.values()) field.complain("");
  }
}

export function briefly(value) {
  if (value === null || value === "") return "none";
  const text = String(value).replaceAll("\n", " ");
  return text.length > 18 ? `${text.slice(0, 17)}…` : text;
}
