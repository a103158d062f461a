// Try it: search, take items, see what comes next.

import { get, post } from "./api.js";
import { attempt, problem } from "./attempt.js";
import { Choices, onlyWords } from "./choices.js";
import { count, h, percent, renew, say, some } from "./dom.js";
import { SearchBox } from "./search.js";
import { picture } from "./tile.js";
import { showWhy } from "./why.js";

const MORE = 12;
const MAX_K = 96;

export async function showTry(catalog, _, parameters) {
  return new TryView(catalog, await Choices.read(parameters)).start();
}

class TryView {
  constructor(catalog, choices) {
    this.catalog = catalog;
    this.choices = choices;
    this.taken = h("div", { class: "taken" });
    this.next = h("div", { class: "next" });
    this.filters = h("div", { class: "filters" });
    this.search = new SearchBox({
      label: "Search the catalog",
      verb: "Take",
      choose: (item) => this.take(item),
      below: (words, items) => this.onlyThese(words, items),
    });
  }

  start() {
    this.changed();
    const { catalog } = this;
    return [
      h(
        "div",
        { class: "intro" },
        h("h1", {}, "Take a few things. See what comes next."),
        h(
          "p",
          { class: "lede" },
          `${some(catalog.num_items, "item")} of ${catalog.source}, and what ` +
            `${count(catalog.num_users)} people took, taught this model what goes together.`,
        ),
      ),
      h(
        "div",
        { class: "bench" },
        h("section", { class: "finder panel", "aria-label": "Find items" }, this.search.element),
        h(
          "div",
          { class: "results" },
          h("section", { "aria-labelledby": "taken" }, this.taken),
          h("section", { "aria-labelledby": "next" }, this.filters, this.next),
        ),
      ),
    ];
  }

  take(item) {
    this.choices.taken.push(item);
    this.changed(`Took ${item.title}.`);
  }

  changed(words = "") {
    this.choices.write();
    this.drawTaken();
    this.drawFilters();
    this.ask(words);
  }

  // --- what was taken
  drawTaken() {
    const { taken } = this.choices;
    const head = h(
      "div",
      { class: "head" },
      h("h2", { id: "taken" }, taken.length ? "Taken so far" : "Start from somebody"),
      taken.length > 0 && [
        button("Undo", "undo", () => this.without(taken.length - 1)),
        button("Clear", "clear", () => {
          this.choices.taken = [];
          this.changed("Nothing is taken.");
        }),
      ],
    );
    renew(this.taken, head, taken.length ? this.strip() : this.examples());
    const strip = this.taken.querySelector(".strip");
    if (strip) strip.scrollLeft = strip.scrollWidth;
  }

  strip() {
    const { taken } = this.choices;
    return h(
      "ol",
      { class: "strip", tabindex: "0", "aria-label": "Taken, oldest first" },
      taken.map((item, place) =>
        h(
          "li",
          {},
          picture(item, item.title),
          h(
            "button",
            {
              type: "button",
              class: "remove",
              "data-key": `taken ${place}`,
              "aria-label": `Put back ${item.title}`,
              title: "Put back",
              onclick: () => this.without(place),
            },
            "×",
          ),
        ),
      ),
    );
  }

  without(place) {
    const [item] = this.choices.taken.splice(place, 1);
    this.changed(`Put back ${item.title}.`);
  }

  examples() {
    return [
      h("p", { class: "quiet" }, "What some people took last; choose one, or search."),
      h(
        "ul",
        { class: "examples" },
        this.catalog.examples.map((items, place) =>
          h(
            "li",
            {},
            h(
              "button",
              {
                type: "button",
                "data-key": `example ${place}`,
                "aria-label": `Take ${items.map((item) => item.title).join("; ")}`,
                onclick: () => {
                  this.choices.taken = [...items];
                  this.changed(`Took ${some(items.length, "item")}.`);
                },
              },
              items.map((item) => picture(item)),
            ),
          ),
        ),
      ),
      this.byUser(),
    ];
  }

  byUser() {
    const input = h("input", { id: "user", type: "text", autocomplete: "off", maxlength: "1024" });
    const answer = h("p", { class: "quiet", role: "status" });
    const load = async (event) => {
      event.preventDefault();
      if (!input.value) return;
      try {
        const path = `v1/users/${encodeURIComponent(input.value)}`;
        const { history } = await get(path);
        const read = history.slice(-50).map((entry) => entry.item_id);
        const found = new URLSearchParams(read.map((itemId) => ["taken", itemId]));
        this.choices.taken = (await Choices.read(found)).taken;
        this.changed(`Took ${some(read.length, "item")} of this person.`);
      } catch (error) {
        answer.textContent = error.message;
      }
    };
    return h(
      "form",
      { class: "line", onsubmit: load },
      h("label", { for: "user" }, "or a user id"),
      input,
      h("button", {}, "Open"),
      answer,
    );
  }

  // --- what may come
  drawFilters() {
    const { refused, only } = this.choices;
    const drop = (item) => () => {
      this.choices.refused = refused.filter((other) => other !== item);
      this.changed(`${item.title} may come again.`);
    };
    renew(
      this.filters,
      h(
        "div",
        { class: "head" },
        h("h2", { id: "next" }, "Recommended next"),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            "data-key": "keep",
            checked: this.choices.keepsTaken,
            onchange: (event) => {
              this.choices.keepsTaken = event.target.checked;
              this.changed();
            },
          }),
          "what was taken, too",
        ),
      ),
      (only || refused.length > 0) &&
        h(
          "ul",
          { class: "tags" },
          only &&
            tag(`only ${only.label}, ${only.extent}`, "Allow everything", () => {
              this.choices.only = null;
              this.changed("Everything may come.");
            }),
          refused.map((item) => tag(`not ${item.title}`, `Allow ${item.title} again`, drop(item))),
        ),
    );
  }

  onlyThese(words, items) {
    if (!words || !items.length) return null;
    const only = async () => {
      this.choices.only = await onlyWords(words);
      this.changed(`Only what ${words} finds may come.`);
    };
    return button(`Recommend only what “${words}” finds`, "only", () =>
      attempt(this.search.hits, only),
    );
  }

  // --- what comes next
  async ask(words) {
    this.asked?.abort();
    this.asked = new AbortController();
    this.next.setAttribute("aria-busy", "true");
    try {
      const found = await post("v1/recommend", this.choices.request(), this.asked.signal);
      const answer = found.answers[0];
      this.drawNext(answer);
      const first = answer.items[0];
      say(`${words} ${first ? `First comes ${first.title}.` : "Nothing can be recommended."}`);
    } catch (error) {
      if (error.name === "AbortError") return;
      const again = button("Try again", "again", () => this.ask(words));
      renew(this.next, problem(error), again);
    }
    this.next.removeAttribute("aria-busy");
  }

  drawNext({ items, is_fallback: isFallback, unknown_items: unknown }) {
    const largest = Math.max(...items.map((item) => item.log_probability));
    const { choices } = this;
    renew(
      this.next,
      isFallback &&
        h(
          "p",
          { class: "note" },
          choices.taken.length
            ? "None of these items is known to the model, so this is what is popular."
            : "Nothing is taken yet, so this is what is popular.",
        ),
      unknown.length > 0 && h("p", { class: "note" }, `Passed over: ${unknown.join(", ")}.`),
      items.length
        ? h(
            "ol",
            { class: "offers" },
            items.map((item, place) => this.offer(item, place, largest, isFallback)),
          )
        : h("p", { class: "note" }, "Nothing is left that could be recommended."),
      items.length === choices.k &&
        choices.k < MAX_K &&
        button("Show more", "more", () => {
          choices.k += MORE;
          this.ask("More items.");
        }),
    );
  }

  offer(item, place, largest, isFallback) {
    const share = Math.exp(item.log_probability - largest);
    const chance = percent(Math.exp(item.log_probability));
    const refuse = () => {
      this.choices.refused.push(item);
      this.changed(`${item.title} will not come again.`);
    };
    return h(
      "li",
      { class: "offer" },
      h(
        "button",
        {
          type: "button",
          class: "take",
          "data-key": `take ${place}`,
          "aria-label": `Take ${item.title}, number ${place + 1}, ${chance}`,
          onclick: () => this.take(item),
        },
        picture(item),
        h("span", { class: "place" }, String(place + 1)),
        h("span", { class: "plus", "aria-hidden": "true" }, "+"),
      ),
      h("p", { class: "name", dir: "auto", title: item.title }, item.title),
      h(
        "p",
        { class: "chance" },
        h(
          "span",
          { class: "meter", "aria-hidden": "true" },
          h("i", { style: { width: `${100 * share}%` } }),
        ),
        h("span", {}, chance),
      ),
      h(
        "p",
        { class: "acts" },
        button("Not this", `refuse ${place}`, refuse, `Never recommend ${item.title}`),
        !isFallback &&
          button(
            "Why?",
            `why ${place}`,
            () => showWhy(this.choices.request(), place, item),
            `Why ${item.title}?`,
          ),
      ),
    );
  }
}

function button(words, key, onclick, label = null) {
  return h(
    "button",
    { type: "button", class: "small", "data-key": key, "aria-label": label, onclick },
    words,
  );
}

function tag(words, label, remove) {
  return h(
    "li",
    {},
    h("span", { title: words }, words),
    h(
      "button",
      { type: "button", "data-key": label, "aria-label": label, title: label, onclick: remove },
      "×",
    ),
  );
}
