// What somebody chose on the first view. The address keeps it, so it can be shared and comes back.

import { get, Problem } from "./api.js";
import { count, some } from "./dom.js";

const MAX_ALLOWED = 10_000;
const PAGE = 1000;

export class Choices {
  /**
   * taken: items, oldest first; refused: items never wanted;
   * only: {kind: "words" or "branch", value, label, ids, extent}, or null for the whole catalog;
   * `extent` says in words how many the ids are, and where they are not all.
   */
  constructor() {
    this.taken = [];
    this.refused = [];
    this.only = null;
    this.keepsTaken = false;
    this.k = 12;
  }

  /** As the address says; titles are asked for. */
  static async read(parameters) {
    const choices = new Choices();
    choices.taken = await Promise.all(parameters.getAll("taken").slice(0, 100).map(named));
    choices.refused = await Promise.all(parameters.getAll("not").slice(0, 100).map(named));
    choices.keepsTaken = parameters.has("keep");
    const [kind, ...rest] = (parameters.get("only") ?? "").split(":");
    if (kind === "words") choices.only = await onlyWords(rest.join(":"));
    if (kind === "branch") choices.only = await onlyBranch(rest.join(":"));
    return choices;
  }

  /** Into the address, without a step for the back button. */
  write() {
    const parameters = new URLSearchParams();
    for (const item of this.taken) parameters.append("taken", item.item_id);
    for (const item of this.refused) parameters.append("not", item.item_id);
    if (this.only) parameters.set("only", `${this.only.kind}:${this.only.value}`);
    if (this.keepsTaken) parameters.set("keep", "");
    const search = parameters.toString();
    history.replaceState(null, "", `#/try${search && `?${search}`}`);
  }

  /** The request that asks for what comes next. */
  request() {
    return {
      histories: [this.taken.map((item) => item.item_id)],
      k: this.k,
      exclude_seen: !this.keepsTaken,
      exclude: this.refused.map((item) => item.item_id),
      ...(this.only ? { allow: this.only.ids } : {}),
    };
  }
}

/** Only what a search for `words` finds. */
export async function onlyWords(words) {
  const { items } = await get("v1/search", { q: words, k: PAGE });
  // A search does not say how many more it would find.
  const extent =
    items.length < PAGE ? some(items.length, "item") : `no more than the first ${count(PAGE)} items`;
  const ids = items.map((item) => item.item_id);
  return { kind: "words", value: words, label: `“${words}”`, ids, extent };
}

/** Only the items whose semantic ID begins with `prefix`, as in "17.3". */
export async function onlyBranch(prefix) {
  const ids = [];
  let size = 1;
  for (let start = 0; start < Math.min(size, MAX_ALLOWED); start += PAGE) {
    const found = await get("v1/tree/items", { prefix, start, k: PAGE });
    size = found.size;
    ids.push(...found.items.map((item) => item.item_id));
  }
  const extent =
    ids.length < size
      ? `no more than the first ${count(ids.length)} of ${count(size)} items`
      : some(size, "item");
  const label = `codes ${prefix.replaceAll(".", " ")}`;
  return { kind: "branch", value: prefix, label, ids, extent };
}

// By the server's word on the item: it is unknown or withdrawn. Having too much to do is no such word.
const isRefused = (status) => status >= 400 && status < 500 && status !== 429;

async function named(itemId) {
  try {
    const { title } = await get(`v1/items/${encodeURIComponent(itemId)}`);
    return { item_id: itemId, title };
  } catch (error) {
    if (!(error instanceof Problem) || !isRefused(error.status)) throw error;
    return { item_id: itemId, title: itemId }; // the answer says so
  }
}
