// Asks for the token of a deployment that has one. It is kept for this tab alone.
import { setToken } from "./api.js";
import { el, fill } from "./dom.js";

const dialog = document.getElementById("dialog");

/** Opens the dialog; the promise is kept once a token was given. */
export function signIn(wrong) {
  return new Promise((resolve) => {
    const input = el("input", { id: "token", type: "password", name: "token", required: true, autocomplete: "current-password", autofocus: true });
    const form = el(
      "form",
      {
        class: "sign-in",
        onsubmit: (event) => {
          event.preventDefault();
          setToken(input.value.trim());
          dialog.close();
          document.getElementById("sign-out").hidden = false;
          resolve();
        },
      },
      el("h2", { id: "dialog-title" }, "Sign in"),
      el("p", {}, "This deployment asks for a token. The playground needs one with the scope ", el("code", {}, "admin"), "; to engage with items it needs ", el("code", {}, "events"), " too."),
      wrong && el("p", { class: "field-error", role: "alert" }, "The deployment does not know that token."),
      el("label", { htmlFor: "token" }, "Token"),
      input,
      el("p", { class: "hint" }, "It stays in this tab and is forgotten when you close it."),
      el("button", { type: "submit", class: "primary" }, "Sign in"),
    );
    fill(dialog, form);
    dialog.oncancel = (event) => event.preventDefault();
    if (!dialog.open) dialog.showModal();
    input.focus();
  });
}

const KEYS = [
  ["/", "type a query"],
  ["Enter", "rank"],
  ["↓ ↑ or j k", "next and previous row of a ranking"],
  ["← → or h l", "the same place in another ranking"],
  ["Enter on a row", "why it stands there"],
  ["Esc", "close what is open"],
  ["?", "this list"],
];

/** Lists the keys. */
export function showKeys() {
  fill(
    dialog,
    el("h2", { id: "dialog-title" }, "Keys"),
    el("dl", { class: "keys" }, KEYS.map(([key, does]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, does)])),
    el("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Close"),
  );
  dialog.oncancel = null;
  dialog.showModal();
}
