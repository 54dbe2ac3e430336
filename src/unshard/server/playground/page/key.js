// The API key: in this tab only, never in a link, never in a copied command.

import { byId } from "./dom.js";

const KEY = "unshard-api-key";

export function installKey(onChange) {
  const input = byId("key");
  try {
    input.value = sessionStorage.getItem(KEY) ?? "";
  } catch {
    // storage may be forbidden; then the key lasts as long as the page
  }
  input.addEventListener("change", () => {
    try {
      sessionStorage.setItem(KEY, apiKey());
    } catch {
      // as above
    }
    onChange();
  });
}

export const apiKey = () => byId("key").value.trim();
