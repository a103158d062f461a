// What somebody chose on the first view. The address keeps it, so it can be shared and comes back.

import { get } from "./api.js";

const MAX_ALLOWED = 10_000;
const PAGE = 1000;

export class Choices {
  /**
   * taken: items, oldest first; refused: items never wanted;
   * only: {kind: "words" or "branch", value, label, ids}, or null for the whole catalog.
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
  return { kind: "words", value: words, label: `“${words}”`, ids: items.map((i) => i.item_id) };
}

/** Only the items whose semantic ID begins with `prefix`, as in "17.3". */
export async function onlyBranch(prefix) {
  const ids = [];
  for (let start = 0, size = 1; start < Math.min(size, MAX_ALLOWED); start += PAGE) {
    const found = await get("v1/tree/items", { prefix, start, k: PAGE });
    size = found.size;
    ids.push(...found.items.map((item) => item.item_id));
  }
  return { kind: "branch", value: prefix, label: `codes ${prefix.replaceAll(".", " ")}`, ids };
}

async function named(itemId) {
  try {
    const { title } = await get(`v1/items/${encodeURIComponent(itemId)}`);
    return { item_id: itemId, title };
  } catch {
    return { item_id: itemId, title: itemId }; // unknown or withdrawn: the answer says so
  }
}
