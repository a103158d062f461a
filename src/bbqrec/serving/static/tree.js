// The ID tree: the catalog by the codes of its semantic IDs, as walls of pictures.

import { get } from "./api.js";
import { attempt } from "./attempt.js";
import { count, h, percent, renew, s, some, times } from "./dom.js";
import { SearchBox } from "./search.js";
import { chips, picture, wall } from "./tile.js";

const CARDS = 24;
const ITEMS = 48;
const ORDERS = { size: "most items", taken: "most taken", code: "number" };

export async function showTree(catalog, place) {
  const view = new TreeView(catalog, place);
  return view.start(await get("v1/tree", { prefix: place, k: CARDS }));
}

class TreeView {
  constructor(catalog, place) {
    this.catalog = catalog;
    this.place = place; // "17.3"
    this.order = "size";
    this.codes = h("div", {});
    this.items = h("div", {});
  }

  start(branch) {
    const isWhole = branch.prefix.length === 0;
    const isLast = branch.codebook_size === null;
    if (!isLast) this.drawCodes(branch, branch.codes);
    if (!isWhole) this.firstItems();
    return [
      h("div", { class: "intro" }, this.crumbs(branch), this.heading(branch)),
      isWhole && this.finder(),
      !isLast &&
        h(
          "section",
          { "aria-labelledby": "codes" },
          this.usage(branch),
          branch.num_codes > 2 && this.orders(branch),
          this.codes,
        ),
      !isWhole && h("section", { "aria-labelledby": "items" }, this.items),
    ].filter(Boolean);
  }

  // --- where we are
  crumbs({ path, prefix }) {
    if (!prefix.length) return null;
    const steps = [{ code: "All", label: "" }, ...path];
    return h(
      "nav",
      { class: "crumbs", "aria-label": "Path of codes" },
      h(
        "ol",
        {},
        steps.map((step, depth) => {
          const isHere = depth === path.length;
          const to = prefix.slice(0, depth).join(".");
          return h(
            "li",
            {},
            h(
              "a",
              { href: `#/tree/${to}`, "aria-current": isHere ? "location" : null },
              h("span", { class: isHere ? "code new" : "code" }, String(step.code)),
              step.label && ` ${step.label.split(", ").slice(0, 2).join(", ")}`,
            ),
          );
        }),
      ),
    );
  }

  heading(branch) {
    const { catalog } = this;
    const { prefix, path, size } = branch;
    if (!prefix.length) {
      return [
        h("h1", {}, "How the model names things"),
        h(
          "p",
          { class: "lede" },
          `${some(catalog.num_items, "item")}, each named by ${branch.num_levels} codes, coarse to ` +
            "fine. Items that begin alike are alike in the eyes of the people who took them.",
        ),
      ];
    }
    const { label } = path.at(-1);
    const everywhere = path[0].times_taken;
    return [
      h("h1", {}, label || "No telling words"),
      h(
        "p",
        { class: "lede" },
        `${some(size, "item begins", "items begin")} with ${prefix.length > 1 ? "these codes" : "this code"}, taken ${times(branch.times_taken)} in training`,
        prefix.length > 1 && everywhere
          ? `, ${percent(branch.times_taken / everywhere)} of code ${prefix[0]}.`
          : ".",
        collisions(branch.num_colliding),
      ),
      h(
        "p",
        {},
        h(
          "a",
          { class: "primary", href: `#/try?only=branch:${prefix.join(".")}` },
          "Recommend only from here",
        ),
      ),
    ];
  }

  finder() {
    const box = new SearchBox({
      label: "Where is …",
      verb: "Show where this is:",
      showsPopular: false,
      k: 6,
      choose: async (item) => {
        const found = await get(`v1/items/${encodeURIComponent(item.item_id)}`);
        location.hash = `#/tree/${found.semantic_id.join(".")}`;
      },
    });
    return h("section", { class: "finder narrow", "aria-label": "Find an item" }, box.element);
  }

  // --- the codes that follow
  usage(branch) {
    const level = branch.prefix.length + 1;
    const dead = branch.dead_codes.length;
    const unused = branch.codebook_size - branch.num_codes - dead;
    return [
      h("h2", { id: "codes" }, level === 1 ? "The first code" : `Code ${level} of ${branch.num_levels}`),
      codeMap(branch),
      h(
        "ul",
        { class: "legend" },
        h("li", {}, h("i", { class: "used" }), `${count(branch.num_codes)} used here`),
        // At the first level "elsewhere" is nowhere: only withdrawn items have such a code.
        level > 1
          ? h("li", {}, h("i", {}), `${count(unused)} not used here`)
          : unused > 0 && h("li", {}, h("i", {}), `${count(unused)} of withdrawn items only`),
        h(
          "li",
          {},
          h("i", { class: "dead" }),
          dead
            ? h("details", {}, h("summary", {}, `${count(dead)} dead: no item has them`), branch.dead_codes.join(", "))
            : "none dead",
        ),
      ),
    ];
  }

  orders(branch) {
    const line = h("p", { class: "line" });
    const choose = async ({ target }) => {
      const isTold = await attempt(line, () => this.moreCodes(branch, target.value, []));
      if (isTold) target.value = this.order;
    };
    line.append(
      h("label", { for: "order" }, "in the order of"),
      h(
        "select",
        { id: "order", onchange: choose },
        Object.entries(ORDERS).map(([value, words]) =>
          h("option", { value, selected: value === this.order }, words),
        ),
      ),
    );
    return line;
  }

  /** Ask for the codes that follow those shown, in `order`; they stay where that fails. */
  async moreCodes(branch, order, shown) {
    this.asked?.abort();
    this.asked = new AbortController();
    const asked = { prefix: this.place, order, start: shown.length, k: CARDS };
    const found = await get("v1/tree", asked, this.asked.signal);
    this.order = order;
    this.drawCodes(branch, [...shown, ...found.codes]);
  }

  drawCodes(branch, codes) {
    const largest = Math.max(...Object.values(branch.sizes), 1);
    renew(
      this.codes,
      h(
        "ul",
        { class: "branches" },
        codes.map((code) => h("li", {}, this.card(branch, code, largest))),
      ),
      codes.length < branch.num_codes &&
        h(
          "button",
          {
            type: "button",
            class: "small",
            "data-key": "more codes",
            onclick: () =>
              attempt(this.codes, () => this.moreCodes(branch, this.order, codes)),
          },
          `Show more of ${count(branch.num_codes)} codes`,
        ),
    );
  }

  card(branch, code, largest) {
    const prefix = [...branch.prefix, code.code];
    return h(
      "article",
      { class: code.size === 1 ? "branch single" : "branch" },
      wall(code.items, () => ""),
      h(
        "h3",
        {},
        h(
          "a",
          { href: `#/tree/${prefix.join(".")}`, "data-key": `code ${code.code}` },
          chips(prefix, branch.prefix.length),
          " ",
          code.label || h("span", { class: "unnamed", dir: "auto" }, unnamed(code)),
        ),
      ),
      h(
        "p",
        { class: "quiet" },
        h(
          "span",
          { class: "meter", "aria-hidden": "true" },
          h("i", { style: { width: `${(100 * code.size) / largest}%` } }),
        ),
        ` ${some(code.size, "item")}, taken ${times(code.times_taken)}`,
        collisions(code.num_colliding),
      ),
    );
  }

  // --- the items themselves
  async firstItems() {
    const isTold = await attempt(this.items, () => this.moreItems([]));
    if (!isTold) return;
    const again = h(
      "button",
      { type: "button", class: "small", "data-key": "again", onclick: () => this.firstItems() },
      "Try again",
    );
    renew(this.items, h("h2", { id: "items" }, "The items"), again);
  }

  async moreItems(before) {
    const found = await get("v1/tree/items", {
      prefix: this.place,
      start: before.length,
      k: ITEMS,
    });
    const items = [...before, ...found.items];
    renew(
      this.items,
      h("h2", { id: "items" }, found.size === 1 ? "The item" : `The ${count(found.size)} items`),
      h(
        "ul",
        { class: "members" },
        items.map((item) =>
          h(
            "li",
            {},
            h(
              "a",
              {
                href: `#/try?taken=${encodeURIComponent(item.item_id)}`,
                "data-key": item.item_id,
                "aria-label": `Try it with ${item.title}`,
              },
              picture(item),
            ),
            h("p", { class: "name", dir: "auto", title: item.title }, item.title),
            h("p", { class: "quiet" }, chips(item.semantic_id, item.semantic_id.length)),
            h("p", { class: "quiet" }, `taken ${times(item.times_taken)}`),
          ),
        ),
      ),
      items.length < found.size &&
        h(
          "button",
          {
            type: "button",
            class: "small",
            "data-key": "more items",
            onclick: () => attempt(this.items, () => this.moreItems(items)),
          },
          "Show more",
        ),
    );
  }
}

/** Where chance explains all words: a lone item's title says more than nothing. */
const unnamed = ({ size, items }) => (size === 1 ? items[0].title : "no telling words");

function collisions(number) {
  if (!number) return null;
  return [" ", h("strong", { class: "warning" }, `${count(number)} share all their codes`)];
}

/** One cell per code: the fuller, the stronger; dead codes are crossed out. */
function codeMap({ prefix, codebook_size: numCodes, sizes, dead_codes: deadCodes }) {
  const unused = prefix.length ? "not used here" : "of withdrawn items only";
  const columns = numCodes <= 64 ? 32 : 64;
  const rows = Math.ceil(numCodes / columns);
  const largest = Math.max(...Object.values(sizes), 1);
  const dead = new Set(deadCodes);
  const cells = [];
  for (let code = 0; code < numCodes; code++) {
    const [x, y] = [10 * (code % columns), 10 * Math.floor(code / columns)];
    const size = sizes[code] ?? 0;
    const words = dead.has(code) ? "dead" : size ? some(size, "item") : unused;
    const cell = s(
      "rect",
      {
        x: x + 0.6,
        y: y + 0.6,
        width: 8.8,
        height: 8.8,
        rx: 1.8,
        class: dead.has(code) ? "dead" : size ? "used" : "free",
        style: size ? { "--mix": `${Math.round(18 + 82 * Math.sqrt(size / largest))}%` } : {},
      },
      s("title", {}, `code ${code}: ${words}`),
    );
    cells.push(cell);
    if (dead.has(code)) {
      cells.push(s("path", { class: "cross", d: `M${x + 3} ${y + 3}l4 4M${x + 7} ${y + 3}l-4 4` }));
    }
  }
  const label = `${Object.keys(sizes).length} of ${numCodes} codes are used here, ${dead.size} are dead`;
  return s(
    "svg",
    {
      class: "map",
      viewBox: `0 0 ${10 * Math.min(columns, numCodes)} ${10 * rows}`,
      role: "img",
      "aria-label": label,
    },
    cells,
  );
}
