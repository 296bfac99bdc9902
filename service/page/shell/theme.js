/** Light, dark or as the system has it; kept for the tab. */

const KEPT = "tessera-theme";
const NEXT = new Map([
  ["system", "light"],
  ["light", "dark"],
  ["dark", "system"],
]);

/** @param {HTMLButtonElement} button */
export function startTheme(button) {
  const apply = (/** @type {string} */ theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    // Canvases take their colours from the styles.
    dispatchEvent(new Event("themechange"));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    dispatchEvent(new Event("themechange")),
  );
  apply(sessionStorage.getItem(KEPT) ?? "system");
  button.addEventListener("click", () => {
    const theme = NEXT.get(sessionStorage.getItem(KEPT) ?? "system") ?? "system";
    sessionStorage.setItem(KEPT, theme);
    apply(theme);
  });
}
