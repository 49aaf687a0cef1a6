// A text field that lists what matches while one types (the combobox pattern of WAI-ARIA).
import { ask } from "./api.js";
import { el, fill, newId, shown } from "./dom.js";

const PAUSE_MS = 120;

/**
 * A field with a list below it.
 *
 * kind: queries, users or items. name: of the field. onpick(found): one of the list was chosen.
 */
export function combobox({ kind, name, label, placeholder, hint, onpick = () => {} }) {
  const id = newId("field");
  const list = el("ul", { id: `${id}-list`, role: "listbox", class: "options", hidden: true, "aria-label": label });
  const input = el("input", {
    id,
    name,
    type: "text",
    placeholder,
    role: "combobox",
    autocomplete: "off",
    spellcheck: false,
    "aria-expanded": "false",
    "aria-controls": list.id,
    "aria-autocomplete": "list",
    "aria-describedby": `${id}-error`,
  });
  const error = el("p", { id: `${id}-error`, class: "field-error", "data-field": name });
  let found = [];
  let active = -1;
  let timer = 0;
  let asking = null;

  function close() {
    clearTimeout(timer);
    asking?.abort();
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    active = -1;
  }

  function mark(next) {
    active = next;
    [...list.children].forEach((option, at) => {
      option.setAttribute("aria-selected", String(at === active));
      if (at === active) option.scrollIntoView({ block: "nearest" });
    });
    if (active >= 0) input.setAttribute("aria-activedescendant", `${id}-${active}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function pick(at) {
    input.value = kind === "items" ? found[at].id : found[at].title;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    const chosen = found[at];
    close();
    onpick(chosen);
  }

  function show() {
    const options = found.map((each, at) =>
      el(
        "li",
        { id: `${id}-${at}`, role: "option", "aria-selected": "false", onmousedown: (e) => e.preventDefault(), onclick: () => pick(at) },
        el("span", { class: "option-title" }, each.title || each.id),
        el("span", { class: "option-count" }, kind === "items" ? each.id : shown(each.count)),
      ),
    );
    fill(list, options);
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(-1);
  }

  async function look(text = input.value) {
    asking?.abort();
    asking = new AbortController();
    try {
      ({ found } = await ask("suggest", { kind, text: text.slice(0, 200) }, asking.signal));
      if (document.activeElement === input) show();
    } catch (problem) {
      if (problem.name !== "AbortError") close();
    }
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  // Before anything is typed, what there is: who knows no name can choose one.
  input.addEventListener("focus", () => {
    input.select();
    timer = setTimeout(look, PAUSE_MS, "");
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    if (event.key === "ArrowDown" && !open) look();
    else if (event.key === "ArrowDown") mark(Math.min(active + 1, found.length - 1));
    else if (event.key === "ArrowUp" && open) mark(Math.max(active - 1, -1));
    else if (event.key === "Enter" && open && active >= 0) pick(active);
    else if (event.key === "Escape" && open) close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const box = el("div", { class: "field combobox" }, el("label", { htmlFor: id }, label, hint && el("span", { class: "hint" }, hint)), input, list, error);
  return { box, input, close };
}
