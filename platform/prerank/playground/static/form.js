// The search: a query, a user, the candidates, and up to three rankers.
import { ask } from "./api.js";
import { combobox } from "./combobox.js";
import { el, fill, newId, shown, when } from "./dom.js";

const MAX_RANKERS = 3;
const NEW_USER = "new-user-";

/** A field with its label and a place for what is wrong with it. */
function field(label, input, name, hint) {
  input.id ||= newId("field");
  input.setAttribute("aria-describedby", `${input.id}-error`);
  const error = el("p", { id: `${input.id}-error`, class: "field-error", "data-field": name });
  return el("div", { class: "field" }, el("label", { htmlFor: input.id }, label, hint && el("span", { class: "hint" }, hint)), input, error);
}

const newUser = () => NEW_USER + crypto.getRandomValues(new Uint32Array(1))[0].toString(16);

/** Fills the form; `onrank(search, rankers)` is called when it is sent. */
export function makeForm(form, state, onrank) {
  const query = combobox({ kind: "queries", name: "query", label: "Query", placeholder: "What is searched for", onpick: () => listRequests() });
  const user = combobox({ kind: "users", name: "user_id", label: "User", placeholder: "Who searches" });
  const time = el("input", { type: "text", name: "time", value: state.time ?? "", spellcheck: false });
  const segments = state.segments.map(({ name, values }) => {
    const list = el("datalist", { id: newId("values") }, values.map((value) => el("option", { value })));
    const input = el("input", { type: "text", name: `context.${name}`, placeholder: "any", autocomplete: "off" });
    input.setAttribute("list", list.id);
    return { name, input, box: el("div", {}, field(name, input, `context.${name}`), list) };
  });
  const request = el("select", { name: "source.request_id", id: newId("field") });
  const ids = el("textarea", { name: "source.ids", rows: 4, placeholder: "One id per line, or separated by commas", spellcheck: false });
  const kinds = [
    ["catalogue", "Catalogue", "Every item of the index."],
    ["request", "Logged", "What a search of the log showed."],
    ["ids", "Pasted ids", "Your own list."],
  ].filter(([kind]) => kind !== "request" || state.log.has_impressions);
  let kind = "catalogue";
  const sources = {
    catalogue: el("p", { class: "hint" }, `All ${shown(state.log.items)} items of the index are ranked.`),
    request: field("Search of the log", request, "source.request_id"),
    ids: field("Item ids", ids, "source.ids"),
  };
  const details = el("div", { class: "source" });

  function choose(next) {
    kind = next;
    fill(details, sources[kind], el("p", { class: "field-error", "data-field": "source" }), el("p", { class: "field-error", "data-field": "candidates" }));
    if (kind === "request") listRequests();
  }

  async function listRequests() {
    if (kind !== "request") return;
    const { requests } = await ask("requests", { query: query.input.value.slice(0, 1000) });
    const options = requests.map((each) =>
      el("option", { value: each.request_id }, `${when(each.time)} · ${each.user_id} · ${each.candidates} shown, ${each.engaged} engaged`),
    );
    fill(request, options.length ? options : el("option", { value: "" }, "The log has no search of this query"));
  }
  query.input.addEventListener("change", listRequests);

  const radios = el(
    "div",
    { class: "segmented", role: "radiogroup", "aria-label": "Candidates" },
    kinds.map(([value, label, title]) =>
      el("label", { title }, el("input", { type: "radio", name: "source.kind", value, checked: value === kind, onchange: () => choose(value) }), el("span", {}, label)),
    ),
  );
  const rankers = rankerFields(state);
  fill(
    form,
    query.box,
    user.box,
    el("button", { type: "button", class: "link", onclick: () => { user.input.value = newUser(); } }, "Somebody new"),
    el("fieldset", {}, el("legend", {}, "Candidates"), radios, details),
    el("fieldset", {}, el("legend", {}, "Rankers"), rankers.box),
    segments.length ? el("fieldset", { class: "pairs" }, el("legend", {}, "Segments"), segments.map((each) => each.box)) : null,
    state.time ? field("Time", time, "time", "the log is replayed") : null,
    el("button", { type: "submit", class: "primary", id: "rank" }, "Rank ", el("kbd", {}, "Enter")),
  );
  choose(kind);
  user.input.value = newUser();

  const read = () => {
    const context = Object.fromEntries(segments.map(({ name, input }) => [name, input.value.trim()]).filter(([, value]) => value));
    const source = { kind };
    if (kind === "request") source.request_id = request.value;
    if (kind === "ids") source.ids = ids.value.split(/[\s,;]+/).filter(Boolean);
    const search = { query: query.input.value, user_id: user.input.value, source, context };
    if (state.time) search.time = time.value.trim();
    return search;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    query.close();
    user.close();
    onrank(read(), rankers.chosen());
  });
  return {
    query: query.input,
    setTime: (iso) => { time.value = iso; },
    time: () => (state.time ? time.value.trim() : undefined),
    set(values) {
      if (values.query !== undefined) query.input.value = values.query;
      if (values.user_id !== undefined) user.input.value = values.user_id;
      for (const { name, input } of segments) if (values.context) input.value = values.context[name] ?? "";
      if (values.source) {
        form.querySelector(`[value="${values.source}"]`)?.click();
        choose(values.source);
      }
    },
    listRequests,
    request,
  };
}

/** Up to three lists to choose rankers from; the first is what the others are compared with. */
function rankerFields(state) {
  const models = state.rankers.filter(({ kind }) => kind === "model");
  const baselines = state.rankers.filter(({ kind }) => kind === "baseline");
  const option = ({ id, title, about, problem }) => el("option", { value: id, title: about, disabled: Boolean(problem) }, title);
  const group = (label, of) => el("optgroup", { label }, of.map(option));
  const selects = Array.from({ length: MAX_RANKERS }, (_, at) => {
    const select = el("select", { name: "rankers" }, at ? el("option", { value: "" }, "none") : null, group("Models", models), group("Baselines", baselines));
    select.value = ["champion", "bm25", ""][at];
    return field(["First", "Second", "Third"][at], select, at ? "" : "rankers", at ? "" : "the others are compared with it");
  });
  const reasons = [...new Set(baselines.map(({ problem }) => problem).filter(Boolean))];
  const missing = reasons.map((reason) => {
    const names = baselines.filter(({ problem }) => problem === reason).map(({ title }) => title);
    return el("p", { class: "hint" }, `${names.join(", ")}: ${reason}.`);
  });
  const absent = missing.length ? el("details", {}, el("summary", { class: "hint" }, "Baselines that cannot be chosen"), missing) : null;
  return {
    box: [...selects, absent],
    chosen: () => selects.map((box) => box.querySelector("select").value).filter(Boolean),
  };
}

/** Says what is wrong beside the field that it is about; true where there is such a field. */
export function showProblem(form, error) {
  clearProblems(form);
  const place = form.querySelector(`.field-error[data-field="${CSS.escape(error.field ?? "")}"]`);
  if (!place || !error.field) return false;
  place.textContent = error.message;
  const input = form.querySelector(`[aria-describedby="${place.id}"]`);
  input?.setAttribute("aria-invalid", "true");
  input?.focus();
  return true;
}

/** Takes back what was said. */
export function clearProblems(form) {
  for (const place of form.querySelectorAll(".field-error")) place.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}
