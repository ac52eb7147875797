// The token: read from the address bar or a field, kept for reloads of this tab, never shown.

const KEY = "tribus.token";

/** Takes `#token=…` out of the address bar, so that it is in no bookmark, history or screenshot. */
export function takeFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return token;
}

export const remember = (token) => withStorage((storage) => storage.setItem(KEY, token));
export const recall = () => withStorage((storage) => storage.getItem(KEY));
export const forget = () => withStorage((storage) => storage.removeItem(KEY));

/** A browser may forbid storage; then a reload asks for the token again. */
function withStorage(action) {
  try {
    return action(sessionStorage);
  } catch {
    return null;
  }
}

/** The token in what was pasted, which may be a link, a header, or a line for a shell; without one, all of it. */
export const tokenIn = (text) => /eyJ[\w-]*\.[\w-]+\.[\w-]+/.exec(text)?.[0] ?? text.trim();

/** What is wrong with a pasted token, as far as can be seen without the gateway; else null. */
export function problemOf(token) {
  if (!token) return "Paste a token first.";
  const isJwt = /^[\w-]+\.[\w-]+\.[\w-]+$/.test(token);
  return isJwt ? null : "That is no JWT: three parts of letters, digits, - and _ with dots between.";
}

/** The claims, unverified: good for showing who one is, nothing else. */
export function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}

/** The topic filters of a grant, where the token itself has them. */
export function grantsOf(claims, name) {
  const grants = claims[name];
  return Array.isArray(grants) ? grants.filter((grant) => typeof grant === "string") : [];
}
