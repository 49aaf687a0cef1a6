// What the page asks: always by POST, with the token that the user gave for this tab.

const TOKEN = "playground-token";

/** A refusal: `message` names the fix, `field` what it is about, `status` of HTTP. */
export class Refusal extends Error {
  constructor(message, field = "", status = 0) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(TOKEN);

export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

let signIn = async () => {
  throw new Refusal("a token is needed");
};

/** Names what asks the user for a token. */
export function onUnknown(ask) {
  signIn = ask;
}

async function post(url, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let answer;
  try {
    answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The deployment does not answer. It may be starting; try again in a moment.");
  }
  let found;
  try {
    found = await answer.json();
  } catch {
    throw new Refusal(`The answer is none that this page knows (status ${answer.status}).`);
  }
  if (!answer.ok) throw new Refusal(found.detail ?? "refused", found.field, answer.status);
  return found;
}

async function asked(url, body, signal) {
  try {
    return await post(url, body, signal);
  } catch (error) {
    if (error.status !== 401) throw error;
    await signIn(token() !== null);
    return asked(url, body, signal);
  }
}

/** Asks the playground; see `prerank.playground.http.ROUTES`. */
export const ask = (name, body = {}, signal = undefined) => asked(`api/${name}`, body, signal);

/** Reports an engagement to the live deployment, as any caller of it would. */
export const report = (event) => asked("/v1/events", { events: [event] });
