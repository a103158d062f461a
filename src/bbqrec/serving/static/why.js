// Why this item? What the model itself says: its score in parts, what it read, code by code.

import { post } from "./api.js";
import { sumBars } from "./charts.js";
import { h, percent, signed } from "./dom.js";
import { picture } from "./tile.js";

const PARTS = {
  own: "what it learned of this item",
  codes: "its codes",
  neighbors: "near neighbors in the history",
  repeat: "had before",
};
const MAX_EXPLAINED = 10; // of one answer

/** Open a dialog that explains number `place` (from 0) of the answer to `request`. */
export async function showWhy(request, place, item) {
  const body = h("div", { class: "why", "aria-busy": "true" }, h("p", {}, "Asking the model …"));
  const dialog = h(
    "dialog",
    { class: "explained", "aria-labelledby": "why" },
    h(
      "form",
      { method: "dialog", class: "close" },
      h("button", { class: "remove", "aria-label": "Close" }, "×"),
    ),
    h("div", { class: "subject" }, picture(item), h("h2", { id: "why", dir: "auto" }, item.title)),
    body,
  );
  const opener = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener?.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const explained = await explain(request, place, item);
    body.replaceChildren(...draw(explained, item));
  } catch (error) {
    body.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
  }
  body.removeAttribute("aria-busy");
}

async function explain(request, place, item) {
  // Only the first are explained: one further down is asked for alone.
  const isFirst = place < MAX_EXPLAINED;
  const asked = isFirst
    ? { ...request, k: place + 1, explain: true }
    : { ...request, k: 1, allow: [item.item_id], explain: true };
  const { answers } = await post("v1/recommend", asked);
  return answers[0].items.find((found) => found.item_id === item.item_id)?.explanation;
}

function draw(explanation, item) {
  if (!explanation) return [h("p", {}, "The model has nothing to say about this item.")];
  return [
    h(
      "p",
      { class: "quiet" },
      `It is given ${percent(Math.exp(item.log_probability))} (log-probability ${signed(explanation.score)}).`,
    ),
    explanation.parts && parts(explanation.parts),
    explanation.history.length > 0 && read(explanation),
    explanation.levels && levels(explanation.levels),
  ].filter(Boolean);
}

function parts(found) {
  const entries = Object.entries(found).flatMap(([name, value]) =>
    value !== null && typeof value === "object"
      ? Object.entries(value).map(([kind, amount]) => [`its ${kind}`, amount])
      : value === null
        ? []
        : [[PARTS[name] ?? name, value]],
  );
  const sum = entries.reduce((total, [, value]) => total + value, 0);
  return h(
    "section",
    {},
    h("h3", {}, "What its score is made of"),
    h("p", { class: "quiet" }, `Exactly these add up to ${signed(sum)}; one unit is a factor of 2.7.`),
    sumBars(entries, "Parts of the score"),
  );
}

function read({ history }) {
  const most = Math.max(...history.map((item) => item.attention), 1e-9);
  return h(
    "section",
    {},
    h("h3", {}, "What it read"),
    h(
      "p",
      { class: "quiet" },
      "Oldest first: the share of attention each item got, and how many times as probable it makes this recommendation as if it were left out.",
    ),
    h(
      "ol",
      { class: "read", tabindex: "0", "aria-label": "History that was read" },
      history.map((item) =>
        h(
          "li",
          {},
          picture(item),
          h("p", { class: "name", dir: "auto", title: item.title }, item.title),
          h(
            "p",
            { class: "chance" },
            h(
              "span",
              { class: "meter", "aria-hidden": "true" },
              h("i", { style: { width: `${(100 * item.attention) / most}%` } }),
            ),
            h("span", {}, `${percent(item.attention)} `, h("span", { class: "hidden" }, "of attention")),
          ),
          leftOut(item.left_out),
          details(item),
        ),
      ),
    ),
  );
}

function leftOut(value) {
  if (value === null || value === undefined) return null;
  const factor = Math.exp(value);
  const words = factor >= 10 ? factor.toFixed(0) : factor.toFixed(2);
  const side = value > 0.005 ? "more" : value < -0.005 ? "less" : "";
  return h("p", { class: `effect ${side}`, title: `log-probability ${signed(value)}` }, `× ${words}`);
}

function details(item) {
  const lines = [
    ...Object.entries(item.neighbor ?? {}).map(([kind, value]) => [`neighbor by ${kind}`, value]),
    ...Object.entries(item.similarity_bias ?? {}).map(([kind, value]) => [`attention by ${kind}`, value]),
  ].filter(([, value]) => Math.abs(value) >= 0.005);
  if (!lines.length) return null;
  return h(
    "ul",
    { class: "because" },
    lines.map(([name, value]) => h("li", {}, `${name} ${signed(value)}`)),
  );
}

function levels(found) {
  return h(
    "section",
    {},
    h("h3", {}, "How its codes were chosen"),
    h("p", { class: "quiet" }, "Coarse to fine: the code of this item at each level, and the runners-up."),
    h(
      "ol",
      { class: "ladder" },
      found.map((level) => {
        const all = [level, ...level.runners_up];
        const most = Math.max(...all.map((code) => Math.exp(code.log_probability)));
        return h(
          "li",
          {},
          h(
            "ul",
            {},
            all.map((code, place) =>
              h(
                "li",
                { class: place ? null : "chosen" },
                h("span", { class: place ? "code" : "code new" }, String(code.code)),
                h("span", { class: "label" }, code.label),
                h(
                  "span",
                  { class: "meter", "aria-hidden": "true" },
                  h("i", { style: { width: `${(100 * Math.exp(code.log_probability)) / most}%` } }),
                ),
                h("span", { class: "number" }, percent(Math.exp(code.log_probability))),
              ),
            ),
          ),
        );
      }),
    ),
  );
}
