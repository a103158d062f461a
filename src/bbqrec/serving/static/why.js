// Why this item? What the model itself says: its score in parts, what it read, code by code.

import { post } from "./api.js";
import { problem } from "./attempt.js";
import { sumBars } from "./charts.js";
import { count, h, percent, signed } from "./dom.js";
import { picture } from "./tile.js";

const PARTS = {
  tree: "its place in the tree of IDs",
  own: "this item alone",
  codes: "its codes",
  new: "being new",
  neighbors: "likeness to the history",
  repeat: "taken before",
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
    body.replaceChildren(problem(error));
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
    explanation.levels && levels(explanation),
  ].filter(Boolean);
}

function parts(found) {
  const entries = Object.entries(found)
    .flatMap(([name, value]) =>
      typeof value === "object"
        ? Object.entries(value).map(([kind, amount]) => [`its ${kind}`, amount])
        : [[PARTS[name], value]],
    )
    .filter(([, value]) => value !== 0);
  const sum = entries.reduce((total, [, value]) => total + value, 0);
  return h(
    "section",
    {},
    h("h3", {}, "What its score is made of"),
    h("p", { class: "quiet" }, `Exactly these add up to ${signed(sum)}; one unit is a factor of 2.7.`),
    sumBars(entries, "Parts of the score"),
  );
}

function read({ history, attention_elsewhere: elsewhere, parts: score }) {
  const most = Math.max(...history.map((item) => item.attention ?? 0), 1e-9);
  const latest = history.at(-1);
  return h(
    "section",
    {},
    h("h3", {}, "What it read"),
    h(
      "p",
      { class: "quiet" },
      "Oldest first: the share of attention that each item got, and how many times as probable it " +
        "makes this recommendation as if it were left out" +
        (elsewhere >= 0.005 ? `. ${percent(elsewhere)} of attention went to no item. ` : ". ") +
        otherWays(history, score),
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
          item.attention === null
            ? h("p", { class: "chance" }, "beyond attention")
            : attention(item.attention, most),
          leftOut(item.left_out),
          details(item, item === latest),
        ),
      ),
    ),
  );
}

/** Why leaving an item out may change much though it got little attention, and the other way. */
function otherWays(history, score) {
  const begin = "The two need not agree, for attention, here the last layer’s, is only one of the ways: ";
  // Runs that show no parts may be of a form that reads at no one place.
  if (!score) return `${begin}an item can also count by what the model took from it before that layer.`;
  const besides = [
    history.some((item) => Object.keys(item.neighbor).length) && "near neighbors",
    score.repeat !== 0 && "repeats",
  ].filter(Boolean);
  const places = "the latest item also counts directly, since the model reads at its place";
  const layers = "any earlier layers have mixed the items";
  return besides.length
    ? `${begin}${places}, ${layers}, and ${besides.join(" and ")} add to the score themselves.`
    : `${begin}${places}, and ${layers}.`;
}

const attention = (share, most) =>
  h(
    "p",
    { class: "chance" },
    h(
      "span",
      { class: "meter", "aria-hidden": "true" },
      h("i", { style: { width: `${(100 * share) / most}%` } }),
    ),
    h("span", {}, percent(share), h("span", { class: "hidden" }, " of attention")),
  );

function leftOut(value) {
  const factor = Math.exp(value);
  const words = factor >= 10 ? count(Math.round(factor)) : factor.toFixed(2);
  const side = value > 0.005 ? "more" : value < -0.005 ? "less" : "";
  return h("p", { class: `effect ${side}`, title: `log-probability ${signed(value)}` }, `× ${words}`);
}

function details(item, isLatest) {
  const likeness = isLatest ? "for being the latest" : "for likeness to the latest";
  const lines = [
    ["added as a near neighbor", item.neighbor, 1],
    ["taken off as a near neighbor", item.neighbor, -1],
    [`more attention ${likeness}`, item.similarity_bias, 1],
    [`less attention ${likeness}`, item.similarity_bias, -1],
  ].map(([words, amounts, sign]) => {
    const told = Object.entries(amounts).filter(([, value]) => sign * value >= 0.005);
    const parts = told.map(([kind, value]) => `${kind.replaceAll("_", " ")} ${signed(value)}`);
    return parts.length > 0 && h("li", {}, `${words}: ${parts.join(", ")}`);
  });
  return lines.some(Boolean) && h("ul", { class: "because" }, lines);
}

function levels({ levels: found, rank_by: rankBy }) {
  return h(
    "section",
    {},
    h("h3", {}, "How its codes were chosen"),
    h(
      "p",
      { class: "quiet" },
      "Coarse to fine: how probable the model finds each code of this item when it writes them one " +
        "by one, and the runners-up.",
      rankBy === "dense" && " This run ranks by the score above; codes are what it also learned to write.",
    ),
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
