// A request as a command and as a program. Neither holds a key: they take it from the environment.

const OPENAI_FIELDS = new Set([
  ...["model", "prompt", "echo", "max_tokens", "temperature", "top_p", "n", "best_of", "logprobs"],
  ...["stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"],
]);

export function asCurl(url, body, keyed) {
  const key = keyed ? `  -H "Authorization: Bearer $UNSHARD_API_KEY" \\\n` : "";
  return (
    `curl ${quoted(url)} \\\n  -H 'Content-Type: application/json' \\\n${key}` +
    `  -d ${quoted(JSON.stringify(body, null, 2))}\n`
  );
}

export function asPython(baseUrl, body, keyed) {
  const own = Object.entries(body).filter(([name]) => OPENAI_FIELDS.has(name));
  const extra = Object.entries(body).filter(([name]) => !OPENAI_FIELDS.has(name));
  const lines = own.map(([name, value]) => `    ${name}=${literal(value)},\n`);
  if (extra.length) lines.push(`    extra_body=${literal(Object.fromEntries(extra))},\n`);
  return (
    `${keyed ? "import os\n\n" : ""}import openai\n\n` +
    `client = openai.OpenAI(base_url=${literal(baseUrl)}, ` +
    `api_key=${keyed ? 'os.environ["UNSHARD_API_KEY"]' : '"none"'})\n` +
    `completion = client.completions.create(\n${lines.join("")})\n` +
    "for choice in completion.choices:\n    print(choice.text)\n"
  );
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// JSON's strings and numbers are Python's too.
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const members = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`);
  return `{${members.join(", ")}}`;
}
