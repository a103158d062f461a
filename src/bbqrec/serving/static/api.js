// The server's API. A server that wants a token is asked again when the user has given it.

import { h } from "./dom.js";

const KEY = "bbqrec token"; // of this tab only, and gone with it
let version = null; // of the model that answered last
let tellVersion = () => {};

/** Have `tell` called when another version begins to answer. */
export const onVersion = (tell) => (tellVersion = tell);

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const get = (path, parameters = {}, signal = undefined) =>
  ask(`${path}${query(parameters)}`, { signal });

export const post = (path, body, signal = undefined) =>
  ask(path, {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

async function ask(path, options) {
  const response = await send(path, options);
  let body = {};
  try {
    body = await response.json();
  } catch {
    // Taken back, or cut off, while it arrived: half an answer is none.
    options.signal?.throwIfAborted();
    if (response.ok) throw new Problem(0, "The server's answer broke off; ask again.");
  }
  if (response.ok) {
    notice(body.model_version);
    return body;
  }
  throw new Problem(response.status, body.detail ?? `The server answered ${response.status}.`);
}

function notice(found) {
  if (found === undefined || found === version) return;
  version = found;
  tellVersion(version);
}

async function send(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached; is it still running?");
  }
  if (response.status !== 401) return response;
  await askForToken(token);
  return send(path, options);
}

let asking = null; // one question, however many requests wait for its answer

function askForToken(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    const input = h("input", {
      type: "password",
      id: "token",
      autocomplete: "current-password",
      required: true,
    });
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", {}, "This server asks for a token"),
      h("p", {}, refused ? "That was not the right one." : "Whoever started it knows the token."),
      h("label", { for: "token" }, "Token"),
      input,
      h("button", { class: "primary" }, "Open"),
    );
    const dialog = h("dialog", { class: "ask", "aria-label": "Token" }, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, input.value.trim());
      dialog.remove();
      asking = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

/** Show an item's picture in `image`; `fail` is called where there is none. */
export async function showPicture(image, itemId, fail) {
  const path = `v1/pictures/${encodeURIComponent(itemId)}`;
  image.addEventListener("error", fail);
  if (!sessionStorage.getItem(KEY)) {
    image.src = new URL(path, document.baseURI).href;
    return;
  }
  // An image element sends no token.
  const picture = await send(path)
    .then((response) => (response.ok ? response.blob() : null))
    .catch(() => null);
  if (!picture) return fail();
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.src = URL.createObjectURL(picture);
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
