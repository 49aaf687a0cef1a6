// Why an item has its score: bars for its parts, the counts behind them, and what one may do with it.
import { ask } from "./api.js";
import { el, failure, fill, link, score, shown, skeleton, when } from "./dom.js";

const dialog = document.getElementById("dialog");
const FIRST_PARTS = 12;
const WINDOWS = [["7d", "7 days"], ["30d", "30 days"], ["all", "all time"]];

/** Opens the dialog of a row. */
export async function openWhy(item, ranker, hasParts, view, hooks) {
  const body = el("div", { class: "why-body" }, skeleton(9));
  const actions = hooks.state.actions.map((action) =>
    el("button", { type: "button", "data-action": action, onclick: () => { dialog.close(); hooks.engage(item, action, ranker, view); } }, action),
  );
  fill(
    dialog,
    el(
      "header",
      { class: "why-head" },
      el("h2", { id: "dialog-title" }, item.title || `Item ${item.id}`),
      el("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
    ),
    el("p", { class: "sub" }, link("item", item.id, `Item ${item.id}`), ` · place ${item.place} · score ${score(item.score)}`),
    el("div", { class: "engage", role: "group", "aria-label": "Engage" }, el("span", { class: "hint" }, `As ${view.answer.user_id}:`), actions),
    body,
  );
  dialog.oncancel = null;
  dialog.showModal();
  if (!hasParts) {
    fill(body, el("p", { class: "hint" }, "This baseline has one number and no parts. Open the item in a model's ranking to see what its score is made of."));
    return;
  }
  try {
    const found = await ask("explain", { ...view.search, ranker, item: item.id });
    fill(body, parts(found), counts(found), facts(found));
  } catch (error) {
    fill(body, failure(error, () => { dialog.close(); openWhy(item, ranker, hasParts, view, hooks); }));
  }
}

/** A bar to the right of the middle for what raises the score, to the left for what lowers it. */
function bar(title, about, value, most) {
  const made = el("span", { class: value < 0 ? "bar-fill less" : "bar-fill" });
  made.style.setProperty("--size", (Math.abs(value) / most).toFixed(4));
  return el(
    "li",
    {},
    el("span", { class: "bar-title" }, title, about ? el("span", { class: "hint" }, about) : null),
    el("span", { class: "bar-track", "aria-hidden": "true" }, made),
    el("span", { class: "bar-value" }, score(value)),
  );
}

const HOW = {
  linear: "A bar is exact: weight × value. Bars add up to the score.",
  trees: "A bar is a SHAP value, which LightGBM computes of its trees: what the feature adds to the mean of training. With that mean, bars add up to the score.",
  additive: "A bar is exact: weight × distance from the typical candidate. Bars add up to the score.",
  together: "A bar is what the score would lose if this feature alone were that of the typical candidate. With “together”, bars add up to the score.",
};

/** What of a score is no feature's: title, words and size. */
function wholeParts(found) {
  if (found.baseline) return found.base ? [["mean of training", "what every candidate begins with", found.base]] : [];
  return [
    ["dot product", `${score(found.scale)} × ${score(found.dot)}, what the two towers say`, found.dot_part],
    ...(found.additive ? [] : [["together", "what hidden units make of several features at once", found.together]]),
    ["typical", "what a typical candidate has from this request", found.typical],
  ];
}

function parts(found) {
  const whole = wholeParts(found);
  const features = found.parts.map((each) => [each.about, `${each.feature} = ${shown(each.value)}`, each.part]);
  const few = features.slice(0, FIRST_PARTS);
  const rest = features.slice(FIRST_PARTS);
  const most = Math.max(...[...whole, ...features].map(([, , value]) => Math.abs(value)), 1e-9);
  const bars = (rows) => rows.map(([title, about, value]) => bar(title, about, value, most));
  return el(
    "section",
    {},
    el("h3", {}, "What the score is made of"),
    el("p", { class: "hint" }, HOW[found.baseline ?? (found.additive ? "additive" : "together")]),
    el("ul", { class: "bars" }, bars(whole), bars(few)),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} smaller parts`), el("ul", { class: "bars" }, bars(rest))) : null,
  );
}

function counts(found) {
  if (!found.counts.length) return el("section", {}, el("h3", {}, "The counts behind it"), el("p", { class: "hint" }, "Nobody engaged with it for this query, its words or any other."));
  const rows = found.counts.map((row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, row.level, row.key ? el("span", { class: "hint" }, row.key) : null),
      WINDOWS.map(([window]) => {
        const [own, all] = [row.counts[`engage:${window}`], row.totals[`engage:${window}`]];
        return el("td", {}, own === undefined ? "–" : [el("b", {}, shown(own)), ` of ${shown(all)}`]);
      }),
    ),
  );
  return el(
    "section",
    {},
    el("h3", {}, "The counts behind it"),
    el("div", { class: "scroll", tabIndex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Engagements with it, of all under"), WINDOWS.map(([, title]) => el("th", { scope: "col" }, title)))), el("tbody", {}, rows))),
  );
}

const facts = (found) =>
  el(
    "p",
    { class: "hint" },
    `${found.baseline ? `Features as model version ${found.version} reads them` : `Model version ${found.version}`}. Counts are of the snapshot of ${when(found.snapshot_cutoff)}; the user's history is read as of ${when(found.time)}.`,
    found.indexed ? "" : " The index does not hold this item: it is scored as an unknown one.",
    found.degraded.length ? ` Degraded: without ${found.degraded.join(", ")}.` : "",
  );
