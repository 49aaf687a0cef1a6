// An engagement, and what it changes: the same moment is ranked without it and with it.
import { ask, report } from "./api.js";
import { el, fill, score } from "./dom.js";
import { showRanking } from "./ranking.js";

const LEAST = 5e-4;
const SECOND = 1000;

/** The time `ms` later, with the microseconds that it has. */
export function later(iso, ms) {
  const micros = iso.match(/\.\d{3}(\d{1,3})/)?.[1] ?? "";
  return new Date(Date.parse(iso) + ms).toISOString().replace("Z", `${micros}Z`);
}

/** Reports an engagement, ranks anew, and says what is different. */
export async function engage(item, action, ranker, view, main, hooks) {
  const replay = view.search.time !== undefined;
  const at = replay ? view.answer.time : new Date().toISOString();
  if (replay) view.search = { ...view.search, time: later(at, SECOND) };
  const place = (answer) => answer?.columns.find((column) => column.ranker === ranker)?.items.find(({ id }) => id === item.id)?.place;
  const explained = () => ask("explain", { ...view.search, ranker, item: item.id }).catch(() => null);
  const [before, from] = [await explained(), place(view.answer)];
  const event = { user_id: view.answer.user_id, item_id: item.id, action, event_time: at, query: view.answer.query };
  const { online } = await report(event);
  await showRanking(main, view, hooks);
  const after = await explained();
  if (replay) hooks.form.setTime(view.search.time);
  for (const row of main.querySelectorAll(`.row[data-item="${CSS.escape(item.id)}"]`)) row.classList.add("touched");
  fill(main.querySelector("#changes"), changes(item, action, view, online, from, place(view.answer), before, after));
  main.querySelector("#changes h2")?.focus();
}

function changes(item, action, view, online, from, to, before, after) {
  const rows = before && after ? changedFeatures(before, after) : [];
  const moved = from === to ? `It stays at place ${to}.` : `It goes from place ${from} to ${to ?? "beyond the rows shown"}.`;
  return el(
    "section",
    { class: "changes", role: "status" },
    el("h2", { tabIndex: -1 }, `${view.answer.user_id}: ${action} on “${item.title || item.id}”`),
    el("p", {}, online ? moved : "The event is acknowledged and will enter the history once the online store is back."),
    rows.length
      ? el("div", { class: "scroll", tabIndex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ["What changed", "before", "after"].map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, rows)))
      : el("p", { class: "hint" }, "No feature of this item changed."),
    el("p", { class: "hint" }, "Both are of the same moment, a second after the engagement. Counts over all users wait for the next snapshot; the user's own history is read at once."),
  );
}

function changedFeatures(before, after) {
  const words = Object.fromEntries([...before.parts, ...after.parts].map(({ feature, about }) => [feature, about]));
  const names = [...new Set([...Object.keys(before.features), ...Object.keys(after.features)])].sort();
  const pairs = names.map((name) => [name, before.features[name] ?? 0, after.features[name] ?? 0]);
  const dot = before.dot === undefined ? [] : [["dot product", before.dot, after.dot]];
  const all = [["score", before.score, after.score], ...dot, ...pairs];
  return all
    .filter(([, old, now]) => Math.abs(now - old) > LEAST)
    .map(([name, old, now]) => el("tr", {}, el("th", { scope: "row" }, words[name] ?? name, words[name] ? el("span", { class: "hint" }, name) : null), el("td", {}, score(old)), el("td", { class: now > old ? "up" : "down" }, score(now))));
}
