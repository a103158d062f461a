// A search box with pictures below it: arrows walk through them, Enter takes the first.

import { get } from "./api.js";
import { attempt, problem, unsay } from "./attempt.js";
import { h, renew, say, some } from "./dom.js";
import { picture } from "./tile.js";

const WAIT_MS = 120;
let number = 0;

export class SearchBox {
  /**
   * label: of the box; verb: what choosing does, as in "Take"; choose: called with an item, may
   * fail;
   * below: (words, items) -> an element under the results, or null; k: how many are shown.
   */
  constructor({ label, verb, choose, below = () => null, k = 12, showsPopular = true }) {
    this.verb = verb;
    this.choose = (item) => attempt(this.hits, () => choose(item));
    this.below = below;
    this.k = k;
    this.showsPopular = showsPopular;
    this.forget();
    const id = `search-${++number}`;
    this.input = h("input", {
      id,
      type: "search",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: "200",
      placeholder: "words of a title, or an id",
      "aria-controls": `${id}-hits`,
      oninput: () => this.soon(),
      onkeydown: (event) => this.key(event),
    });
    this.hits = h("div", { class: "hits", id: `${id}-hits`, onkeydown: (event) => this.walk(event) });
    this.element = h(
      "div",
      { class: "search", role: "search" },
      h("label", { for: id }, label),
      this.input,
      this.hits,
    );
    this.find();
  }

  soon() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.find(), WAIT_MS);
  }

  /** What was found before must not be chosen any more, nor come in late. */
  forget() {
    this.asked?.abort();
    this.items = [];
    this.words = null; // that `items` were found by
  }

  async find() {
    const words = this.input.value.trim();
    this.forget();
    unsay(this.hits);
    if (!words && !this.showsPopular) return renew(this.hits);
    this.asked = new AbortController();
    try {
      const { items } = await get("v1/search", { q: words, k: this.k }, this.asked.signal);
      this.items = items;
      this.words = words;
      this.draw(words, items);
    } catch (error) {
      if (error.name === "AbortError") return;
      renew(this.hits, problem(error));
    }
  }

  draw(words, items) {
    const heading = words
      ? items.length
        ? null
        : `No title has words that begin with “${words}”.`
      : "Popular";
    renew(
      this.hits,
      heading && h("p", { class: "quiet" }, heading),
      h(
        "ul",
        {},
        items.map((item, place) =>
          h(
            "li",
            {},
            h(
              "button",
              {
                type: "button",
                "data-key": `hit ${place}`,
                "aria-label": `${this.verb} ${item.title}`,
                onclick: () => this.choose(item),
              },
              picture(item),
              h("span", { class: "name", dir: "auto" }, item.title),
            ),
          ),
        ),
      ),
      this.below(words, items),
    );
    if (words) say(items.length ? `${some(items.length, "item")} found.` : "Nothing found.");
  }

  async key(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.hits.querySelector("button")?.focus();
    }
    if (event.key !== "Enter") return;
    event.preventDefault();
    clearTimeout(this.waiting);
    if (this.input.value.trim() !== this.words) await this.find();
    if (this.items.length && this.words) {
      this.input.value = "";
      this.choose(this.items[0]);
      this.find();
    }
  }

  walk(event) {
    const buttons = [...this.hits.querySelectorAll("li button")];
    const here = buttons.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns(buttons), ArrowUp: 0 };
    if (here < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const to = event.key === "ArrowUp" ? here - this.columns(buttons) : here + steps[event.key];
    if (to < 0) this.input.focus();
    else buttons[Math.min(to, buttons.length - 1)].focus();
  }

  columns(buttons) {
    const top = buttons[0]?.offsetTop;
    return Math.max(1, buttons.filter((button) => button.offsetTop === top).length);
  }
}
