// From a prompt and settings to the body of POST /v1/completions.

export class FieldError extends Error {
  constructor(field, message) {
    super(`${field}: ${message}`);
    this.param = field;
  }
}

// Fields that have their default are left out: what is sent says what was chosen.
export function requestBody(fields, { model, prompt, settings, seed }) {
  const body = model ? { model, prompt } : { prompt };
  for (const { name, kind, default: usual } of fields) {
    const value = READ[kind](settings[name], name);
    if (value !== null && value !== usual) body[name] = value;
  }
  if (!("seed" in body) && seed !== undefined) body.seed = seed;
  return body;
}

// The best of many are known at the end, so there is nothing to stream before it.
export function streamed(body) {
  if (body.best_of > (body.n ?? 1)) return body;
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

export const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

const READ = {
  number: (value) => value,
  integer: (value) => value,
  switch: (value) => value,
  lines: (text) => {
    const lines = text.split("\n").filter((line) => line !== "").map(unescaped);
    return lines.length ? lines : null;
  },
  biases: (text, field) => {
    const biases = {};
    for (const line of text.split("\n").filter((each) => each.trim())) {
      const found = /^\s*(\d+)\s*[:=\s]\s*([-+−]?[\d.]+)\s*$/.exec(line);
      const bias = found ? Number(found[2].replace("−", "-")) : NaN;
      if (Number.isNaN(bias)) throw new FieldError(field, `“${line}” is not “token id: number”`);
      biases[found[1]] = bias;
    }
    return Object.keys(biases).length ? biases : null;
  },
};

const ESCAPES = { "\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\" };

const unescaped = (line) => line.replace(/\\[ntr\\]/g, (escape) => ESCAPES[escape]);
