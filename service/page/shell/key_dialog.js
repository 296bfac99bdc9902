/** The dialog that asks for a key, once for all calls that wait for one. */

import { keyDialog } from "../lib/api.js";

export function askForKeys() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("key"));
  const input = /** @type {HTMLInputElement} */ (document.getElementById("key-input"));
  const reason = /** @type {HTMLElement} */ (document.getElementById("key-reason"));
  /** @type {Promise<string> | null} */
  let asked = null;
  // Without a key there is nothing to see.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  keyDialog.ask = (why) => {
    asked ??= new Promise((resolve) => {
      reason.textContent = why ? `That key does not fit: ${why}.` : "Ask whoever runs it for one.";
      input.value = "";
      dialog.showModal();
      dialog.addEventListener(
        "close",
        () => {
          asked = null;
          resolve(input.value.trim());
        },
        { once: true },
      );
    });
    return asked;
  };
}
