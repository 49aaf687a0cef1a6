// Elements are made of text nodes alone: what stands in titles and queries is never markup.

/** An element with properties, attributes (`aria-*`, `data-*`, `role` …) and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name in made && !name.includes("-") && name !== "list") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Puts children in place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((c) => c !== null && c !== undefined));
}

let made = 0;

/** An id that no other element has. */
export const newId = (prefix) => `${prefix}-${++made}`;

/** A box that says something went wrong, with a button that tries again. */
export function failure(error, again) {
  return el(
    "div",
    { class: "notice bad", role: "alert" },
    el("p", {}, el("strong", {}, titleOf(error)), " ", error.message),
    again && el("button", { type: "button", onclick: again }, "Try again"),
  );
}

const titleOf = (error) =>
  error.field && error.field !== "service" ? `${error.field}:` : "That did not work.";

/** Grey lines where something is on its way. */
export function skeleton(lines, label = "Loading …") {
  const rows = Array.from({ length: lines }, () => el("span", { class: "bone" }));
  return el("div", { class: "skeleton", role: "status" }, el("span", { class: "unseen" }, label), rows);
}

/** What stands where there is nothing. */
export function nothing(title, ...more) {
  return el("div", { class: "nothing" }, el("p", { class: "nothing-title" }, title), el("p", {}, more));
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

/** A number as people read it. */
export const shown = (value) => NUMBER.format(value);

/** A score: three significant digits after the point, its sign a real minus. */
export const score = (value) => value.toFixed(3).replace("-", "−");

/** A time of the server, which is UTC. */
export const when = (iso) => (iso ? `${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC` : "unknown");

/** A link to the page of a query, an item or a user. */
export function link(kind, id, ...children) {
  return el("a", { href: `#/${kind}/${encodeURIComponent(id)}` }, children.length ? children : id);
}
