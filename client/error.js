/** What the gateway answered instead, by its code; or `network`, where nothing of the gateway's came back. */
export class TribusError extends Error {
  constructor({ code, message, retryAfterMs, reconnectAfterMs }) {
    super(message);
    this.name = "TribusError";
    this.code = `${code ?? "network"}`;
    this.retryAfterMs = retryAfterMs ?? reconnectAfterMs;
  }
}

/** Of the network, not of the gateway. */
export const failure = (message, retryAfterMs) => new TribusError({ message, retryAfterMs });

/** Codes of what a subscription asks for, which says nothing of the connection. */
export const isOfSubscription = (code) => /^(bad_|forbidden|too_many_sub|too_large)/.test(code);
