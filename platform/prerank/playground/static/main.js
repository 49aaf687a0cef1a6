// The page: what the deployment is, the form, and which of the views is shown.
import { ask, onUnknown, setToken, token } from "./api.js";
import { el, failure, fill, nothing, shown, skeleton } from "./dom.js";
import { engage } from "./engage.js";
import { clearProblems, makeForm, showProblem } from "./form.js";
import { showPage } from "./pages.js";
import { showRanking, stepRows } from "./ranking.js";
import { showKeys, signIn } from "./signin.js";

const main = document.getElementById("main");
const form = document.getElementById("form");
const dialog = document.getElementById("dialog");
const hooks = { state: null, form: null, rank, engage: engaged, failed };
let view = null;

onUnknown(signIn);

async function start() {
  fill(main, skeleton(8));
  try {
    hooks.state = await ask("state");
  } catch (error) {
    fill(main, failure(error, start));
    main.setAttribute("aria-busy", "false");
    return;
  }
  const { log, problems, champion, clock } = hooks.state;
  fill(document.getElementById("log"), el("b", {}, log.name), ` ${shown(log.items)} items · ${shown(log.requests)} searches · `, champion ? `champion: version ${champion}` : "no champion", clock === "replay" ? " · replayed" : "");
  fill(document.getElementById("problems"), problems.map((problem) => el("p", { class: "notice warn" }, problem)));
  document.getElementById("sign-out").hidden = !token();
  hooks.form = makeForm(form, hooks.state, sent);
  route();
}

function welcome() {
  const { examples } = hooks.state;
  const buttons = examples.map(({ id }) => el("button", { type: "button", class: "chip", onclick: () => rank({ query: id }) }, id));
  fill(main, el("h1", { class: "unseen" }, "Playground"), nothing("Try a search", "Type a query, choose who searches and which rankers answer, and see why each item stands where it does."), el("div", { class: "chips", "aria-label": "Frequent queries" }, buttons));
  main.setAttribute("aria-busy", "false");
}

/** Shows what the address says: `#/`, `#/ranking`, `#/query/…`, `#/item/…` or `#/user/…`. */
function route() {
  if (!hooks.state) return;
  if (dialog.open) dialog.close();
  const [, kind, id] = location.hash.split("/");
  const isPage = ["query", "item", "user"].includes(kind) && id;
  const isRanking = kind === "ranking" && view;
  const name = isPage ? decodeURIComponent(id) : isRanking ? view.search.query : hooks.state.log.name;
  document.title = `${name.slice(0, 60)} · Playground`;
  if (isPage) showPage(main, kind, name, hooks);
  else if (isRanking) showRanking(main, view, hooks).catch(failed);
  else welcome();
  return isPage;
}

/** The address changed: what led there is gone, so a page begins at its top, and has the focus. */
function moved() {
  if (!route()) return;
  main.focus({ preventScroll: true });
  main.scrollIntoView();
}

/** The form was sent: the focus goes where the rankings are, from which keys step into them. */
function sent(search, rankers) {
  clearProblems(form);
  view = { search, rankers };
  main.focus({ preventScroll: true });
  if (main.getBoundingClientRect().top > innerHeight / 2) main.scrollIntoView();
  if (location.hash === "#/ranking") route();
  else location.hash = "#/ranking";
}

/** Fills the form in, and sends it. */
async function rank(values) {
  hooks.form.set(values);
  if (values.request_id) {
    await hooks.form.listRequests();
    hooks.form.request.value = values.request_id;
  }
  form.requestSubmit();
}

function engaged(item, action, ranker, of) {
  engage(item, action, ranker, of, main, hooks).catch(failed);
}

function failed(error) {
  if (error.name === "AbortError") return;
  const said = showProblem(form, error);
  fill(main, said ? nothing("Nothing was ranked", `${error.field}: ${error.message}`) : failure(error, route));
  main.setAttribute("aria-busy", "false");
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || typing) return;
  if (event.key === "/" && hooks.form) hooks.form.query.focus();
  else if (event.key === "?") showKeys();
  else if (!stepRows(main, event)) return;
  event.preventDefault();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog && dialog.oncancel === null) dialog.close();
});
document.getElementById("keys").addEventListener("click", showKeys);
document.getElementById("sign-out").addEventListener("click", () => {
  setToken(null);
  location.reload();
});
addEventListener("hashchange", moved);
start();
