// Light, dark, or as the system has it. Loaded before the page is drawn, so that it never flashes.

const KEY = "unshard-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const NAMES = { system: "auto", light: "light", dark: "dark" };

// Storage may be forbidden; then the choice lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

let theme = Object.hasOwn(NEXT, remembered() ?? "") ? remembered() : "system";

function show() {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (!button) return;
  button.textContent = `Theme: ${NAMES[theme]}`;
}

export function installTheme() {
  show();
  document.getElementById("theme").addEventListener("click", () => {
    theme = NEXT[theme];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // see above
    }
    show();
  });
}

show();
