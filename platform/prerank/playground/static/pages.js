// Pages of a query, an item and a user.
import { ask } from "./api.js";
import { el, failure, fill, link, nothing, shown, skeleton, when } from "./dom.js";

const WINDOWS = [["7d", "7 days"], ["30d", "30 days"], ["all", "all time"]];
const FIELDS = { query: "query", item: "id", user: "user_id" };

/** Shows the page of a kind in `main`. */
export async function showPage(main, kind, id, hooks) {
  fill(main, skeleton(10));
  main.setAttribute("aria-busy", "true");
  try {
    const found = await ask(kind, { [FIELDS[kind]]: id, time: hooks.form.time() });
    fill(main, { query: queryPage, item: itemPage, user: userPage }[kind](found, hooks), footer(found));
  } catch (error) {
    fill(main, el("h1", {}, id), failure(error, error.status === 404 ? null : () => showPage(main, kind, id, hooks)));
  } finally {
    main.setAttribute("aria-busy", "false");
  }
}

function head(kind, title, sub, button) {
  return el("div", { class: "head" }, el("p", { class: "kind" }, kind), el("h1", {}, title), el("p", { class: "sub" }, sub), button);
}

function table(headers, rows) {
  return el(
    "div",
    { class: "scroll", tabIndex: 0 },
    el("table", {}, el("thead", {}, el("tr", {}, headers.map((title) => el("th", { scope: "col" }, title)))), el("tbody", {}, rows)),
  );
}

const cells = (counts) => WINDOWS.map(([window]) => el("td", {}, shown(counts[`engage:${window}`] ?? 0)));

function queryPage(found, hooks) {
  const rank = el("button", { type: "button", class: "primary", onclick: () => hooks.rank({ query: found.query }) }, "Rank this query");
  const actions = hooks.state.actions.filter((action) => found.totals[`${action}:all`] !== undefined);
  const rows = found.items.map((item) => el("tr", {}, el("th", { scope: "row" }, link("item", item.id, item.title || item.id)), cells(item.counts), actions.map((action) => el("td", {}, shown(item.counts[`${action}:all`])))));
  const total = found.known ? el("tr", { class: "total" }, el("th", { scope: "row" }, "all items"), cells(found.totals), actions.map((action) => el("td", {}, shown(found.totals[`${action}:all`])))) : null;
  return [
    head("Query", found.query, found.known ? `${shown(found.distinct)} items are counted for it` : "No counts yet", rank),
    found.items.length ? [el("h2", {}, "What is engaged with"), table(["Item", ...WINDOWS.map(([, title]) => title), ...actions], [total, rows])] : nothing("Nothing is counted for this query", "Rankings fall back on its words and their parts."),
    requestTable(found.requests, hooks),
  ];
}

function itemPage(found, hooks) {
  const known = [found.indexed ? "in the index" : "not in the index", found.trained ? "known from training" : "new to the model"];
  const numbers = Object.entries(found.numeric).map(([name, value]) => [name, value === null ? "missing" : shown(value)]);
  const rows = [["Id", found.id], ["Category", found.category || "none"], ["Created", when(found.created)], ...numbers];
  const counted = Object.keys(found.counts).length > 0;
  return [
    head("Item", found.title || found.id, known.join(", ")),
    el("dl", { class: "facts" }, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    el("h2", {}, "Engagements, of all queries"),
    counted ? table(WINDOWS.map(([, title]) => title), el("tr", {}, cells(found.counts))) : nothing("Nobody engaged with it yet", "Only its text and age speak for it."),
    el("h2", {}, "Queries that lead to it"),
    found.queries.length
      ? table(["Query", "engagements, newest events"], found.queries.map((each) => el("tr", {}, el("th", { scope: "row" }, link("query", each.query)), el("td", {}, shown(each.count)))))
      : nothing("None among the newest events", "It may be engaged with in older ones."),
  ];
}

function userPage(found, hooks) {
  const segments = Object.entries(found.segments).map(([name, value]) => el("span", { class: "tag" }, `${name}: ${value}`));
  const rank = el("button", { type: "button", class: "primary", onclick: () => hooks.rank({ user_id: found.user_id, context: found.segments }) }, "Rank for this user");
  const rows = found.history.map((each) =>
    el("tr", {}, el("td", {}, when(each.time)), el("td", {}, each.action), el("th", { scope: "row" }, link("item", each.id, each.title || each.id)), el("td", {}, each.query ? link("query", each.query) : "–")),
  );
  return [
    head("User", found.user_id, segments.length ? segments : "No segments are known", rank),
    el("h2", {}, "History"),
    rows.length ? table(["Time", "Action", "Item", "By the query"], rows) : nothing("No engagement is online", "Rankings for this user know nothing of them."),
    requestTable(found.requests, hooks),
  ];
}

function requestTable(requests, hooks) {
  if (!requests.length) return null;
  const rows = requests.map((each) =>
    el(
      "tr",
      {},
      el("td", {}, when(each.time)),
      el("td", {}, link("user", each.user_id)),
      el("td", {}, link("query", each.query)),
      el("td", {}, `${shown(each.engaged)} of ${shown(each.candidates)}`),
      el("td", {}, el("button", { type: "button", class: "link", onclick: () => hooks.rank({ query: each.query, user_id: each.user_id, context: each.context, source: "request", request_id: each.request_id }) }, "Rank again")),
    ),
  );
  return [el("h2", {}, "Latest searches in the log"), table(["Time", "User", "Query", "Engaged", ""], rows)];
}

function footer(found) {
  const degraded = found.degraded.length ? `Degraded: the online store lacks ${found.degraded.join(", ")}. ` : "";
  return el("p", { class: degraded ? "notice warn" : "hint" }, degraded, `Counts are of the snapshot of ${when(found.snapshot_cutoff)}.`);
}
