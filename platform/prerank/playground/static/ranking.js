// The rankings of a search side by side.
import { ask } from "./api.js";
import { el, fill, link, nothing, score, shown, skeleton, when } from "./dom.js";
import { openWhy } from "./why.js";

const AGAIN_MS = 1000;
const FIRST_ROWS = 20;
const MORE_ROWS = 200;

/** Asks for a ranking and shows it in `main`; `engage(item, action, view)` reports an engagement. */
export async function showRanking(main, view, hooks) {
  const ours = (view.run = Symbol("run"));
  main.setAttribute("aria-busy", "true");
  if (!view.answer) fill(main, skeleton(10, "Ranking …"));
  try {
    const rows = view.rows ?? FIRST_ROWS;
    const answer = await ask("rank", { ...view.search, rankers: view.rankers, rows });
    if (view.run !== ours) return;
    view.answer = answer;
    draw(main, view, hooks);
    if (answer.columns.some((column) => column.loading)) {
      setTimeout(() => view.run === ours && showRanking(main, view, hooks), AGAIN_MS);
    }
  } finally {
    if (view.run === ours) main.setAttribute("aria-busy", "false");
  }
}

/** Draws the answer in place of the former one; a row that had the focus keeps it. */
function draw(main, view, hooks) {
  const held = main.contains(document.activeElement) ? document.activeElement.dataset : null;
  show(main, view, hooks);
  if (held) (rowAt(main, held.row, held.column) ?? main).focus({ preventScroll: true });
}

const rowAt = (main, row, column) => main.querySelector(`.row[data-row="${row}"][data-column="${column}"]`);

function show(main, view, hooks) {
  const { answer } = view;
  const rankers = Object.fromEntries(hooks.state.rankers.map((ranker) => [ranker.id, ranker]));
  const degraded = [...new Set(answer.columns.flatMap((column) => column.degraded ?? []))];
  const more = answer.candidates > (view.rows ?? FIRST_ROWS) && (view.rows ?? FIRST_ROWS) < MORE_ROWS;
  fill(
    main,
    el(
      "div",
      { class: "head" },
      el("h1", {}, link("query", answer.query)),
      el(
        "p",
        { class: "sub" },
        shown(answer.candidates),
        " candidates for ",
        answer.known_user ? link("user", answer.user_id) : el("span", {}, answer.user_id, " ", el("span", { class: "tag" }, "new user")),
        ` · as of ${when(answer.time)}`,
      ),
    ),
    degraded.length ? el("p", { class: "notice warn", role: "status" }, el("strong", {}, "Degraded. "), `These rankings were made without: ${degraded.join(", ")}.`) : null,
    el("div", { id: "changes" }),
    el(
      "div",
      { class: "columns", "data-count": answer.columns.length },
      answer.columns.map((column, at) => columnOf(column, at, rankers[column.ranker] ?? { title: column.ranker }, view, hooks)),
    ),
    more ? el("button", { type: "button", onclick: () => { view.rows = MORE_ROWS; showRanking(main, view, hooks).catch(hooks.failed); } }, `Show ${Math.min(MORE_ROWS, answer.candidates)} rows`) : null,
  );
}

function columnOf(column, at, { title, about, created }, view, hooks) {
  const head = el(
    "header",
    {},
    el("h2", {}, title),
    column.shared ? el("span", { class: "tag", title: "how many of the best ten both have" }, `${column.shared.shared} of top ${column.shared.of} shared`) : null,
    at === 0 ? el("span", { class: "tag" }, "reference") : null,
    about || created ? el("span", { class: "hint" }, about ?? `registered ${when(created)}`) : null,
  );
  if (column.loading) return el("section", { class: "column" }, head, skeleton(8, column.problem), el("p", { class: "hint" }, column.problem));
  if (column.problem) return el("section", { class: "column" }, head, el("p", { class: "notice bad", role: "alert" }, column.problem));
  if (!column.items.length) return el("section", { class: "column" }, head, nothing("No candidates", "There was nothing to rank."));
  const scores = column.items.map((item) => item.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const bar = (value) => (high > low ? (value - low) / (high - low) : 1);
  const rows = column.items.map((item, row) => rowOf(item, row, at, bar(item.score), column, view, hooks));
  return el("section", { class: "column", "aria-label": title }, head, el("ol", { class: "rows" }, rows));
}

function rowOf(item, row, at, share, column, view, hooks) {
  const hasParts = hooks.state.rankers.find(({ id }) => id === column.ranker)?.explained;
  const meter = el("span", { class: "meter", "aria-hidden": "true", title: "the score, between the lowest and the highest of this list" }, el("span", {}));
  meter.firstChild.style.setProperty("--share", share.toFixed(3));
  const open = el(
    "button",
    {
      type: "button",
      class: "row",
      "data-row": row,
      "data-column": at,
      "data-item": item.id,
      "aria-haspopup": "dialog",
      onclick: () => openWhy(item, column.ranker, hasParts, view, hooks),
    },
    el("span", { class: "place" }, String(item.place)),
    el("span", { class: "title" }, item.title || el("em", {}, `item ${item.id}`), item.engaged ? el("span", { class: "tag good" }, "engaged in the log") : null),
    movedOf(item),
    el("span", { class: "score" }, score(item.score)),
    meter,
  );
  return el("li", { class: item.moved ? "moved" : "" }, open);
}

/** How far an item moved from its place in the first ranking. */
function movedOf({ moved }) {
  if (moved === null || moved === undefined) return el("span", { class: "move" });
  if (moved === 0) return el("span", { class: "move", "aria-label": "same place" }, "=");
  const far = Math.abs(moved);
  return el("span", { class: moved > 0 ? "move up" : "move down", "aria-label": `${far} places ${moved > 0 ? "higher" : "lower"}` }, `${moved > 0 ? "▲" : "▼"} ${far}`);
}

const STEPS = { ArrowDown: [1, 0], j: [1, 0], ArrowUp: [-1, 0], k: [-1, 0], ArrowRight: [0, 1], l: [0, 1], ArrowLeft: [0, -1], h: [0, -1] };

/** Moves the focus between rows; true where the key was one of those. */
export function stepRows(main, event) {
  const step = STEPS[event.key];
  const from = document.activeElement?.closest?.(".row");
  if (!step || (!from && step[1])) return false;
  const row = from ? Number(from.dataset.row) + step[0] : 0;
  const column = from ? Number(from.dataset.column) + step[1] : 0;
  const next = rowAt(main, row, column);
  next?.focus();
  return next !== null;
}
