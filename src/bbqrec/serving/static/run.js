// The run: how good it is, how it learned, and what it learned.

import { get } from "./api.js";
import { curve, dotPanel, heatTable, usageBars } from "./charts.js";
import { count, h, signed, some } from "./dom.js";

const VERDICTS = {
  better: "The whole interval is above zero: better here.",
  worse: "The whole interval is below zero: worse here.",
  level: "The interval includes zero: no difference is shown.",
};
const SLICES = {
  "target popularity": "How often the item that came next occurs in training: rare items are harder.",
  "history length": "How many items are known of the person before the test.",
};
const share = (value) => `${(100 * value).toFixed(1)}%`;

export async function showRun() {
  const run = await get("v1/run");
  return [
    h(
      "div",
      { class: "intro" },
      h("h1", {}, `What was learned from ${run.source}`),
      h(
        "p",
        { class: "lede" },
        `${count(run.num_users)} people, ${count(run.num_items)} items and ` +
          `${count(run.num_interactions)} interactions; ${count(run.num_parameters)} parameters. ` +
          `Finished ${new Date(run.finished).toLocaleDateString("en-GB", { dateStyle: "long" })}.`,
      ),
      stages(run.seconds),
      run.warnings.map((warning) => h("p", { class: "note" }, warning)),
    ),
    ...(run.measured ? measured(run.measured) : [notMeasured()]),
    codes(run.codes),
    training(run.learned),
    ...similarity(run.learned),
  ];
}

function stages(seconds) {
  const entries = Object.entries(seconds);
  const total = entries.reduce((sum, [, value]) => sum + value, 0);
  const mix = (place) => ({ "--mix": `${100 - 18 * place}%` });
  return [
    h(
      "div",
      { class: "stages", "aria-hidden": "true" },
      entries.map(([, value], place) =>
        h("span", { style: { flex: `${total ? value / total : 1} 0 0`, ...mix(place) } }),
      ),
    ),
    h(
      "ul",
      { class: "legend" },
      entries.map(([stage, value], place) =>
        h("li", {}, h("i", { style: mix(place) }), `${stage} `, h("span", { class: "quiet" }, duration(value))),
      ),
    ),
  ];
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const notMeasured = () =>
  h(
    "section",
    {},
    h("h2", {}, "Result"),
    h("p", { class: "note" }, "This run was not evaluated yet; `bbqrec evaluate` does that."),
  );

// --- how good it is
function measured(found) {
  const { headlines, panels, tables, slices, confidence, reference } = found;
  return [
    h(
      "section",
      { "aria-labelledby": "result" },
      h("h2", { id: "result" }, "Result"),
      h(
        "p",
        {},
        `For each of ${some(found.num_cases, "test user")} every model ranks the ` +
          `${count(found.num_items)} items of the catalog, without those that the user had before. ` +
          "One of them is what the user chose next.",
      ),
      h("div", { class: "headlines" }, headlines.map((line) => headline(line, reference, confidence))),
    ),
    h(
      "section",
      { "aria-labelledby": "metrics" },
      h("h2", { id: "metrics" }, "Metrics"),
      h("p", {}, `A dot is the mean over users, the bar around it the ${confidence} bootstrap interval.`),
      h("h3", {}, "All users"),
      panelGrid(panels, confidence),
      tables.map((table) => metricTable(table, panels[0].title, reference)),
    ),
    ...Object.entries(slices).map(([kind, group]) =>
      h(
        "section",
        { class: "slice" },
        h("h3", {}, `${panels[0].title} by ${kind}`),
        kind in SLICES && h("p", { class: "quiet" }, SLICES[kind]),
        panelGrid(group, confidence),
      ),
    ),
  ];
}

const panelGrid = (panels, confidence) =>
  h(
    "div",
    { class: panels.length % 2 || panels.length > 4 ? "panels" : "panels even" },
    panels.map((panel) => dotPanel(panel, confidence)),
  );

function headline(line, reference, confidence) {
  const { mean, low, high } = line.difference;
  return h(
    "div",
    { class: "panel headline" },
    h("h3", {}, line.metric),
    h("strong", {}, line.score.mean.toFixed(3)),
    h("p", { class: "quiet" }, `BBQRec; ${reference} has ${line.reference.mean.toFixed(3)}`),
    h(
      "p",
      { class: `difference ${line.verdict}` },
      `${signed(mean, 3)} `,
      h("span", { class: "quiet" }, `(${confidence} interval ${signed(low, 3)} to ${signed(high, 3)})`),
    ),
    h("p", { class: "quiet" }, VERDICTS[line.verdict]),
    h("p", { class: "meaning quiet" }, `${line.metric}: ${line.meaning}.`),
  );
}

function metricTable({ caption, metrics, rows }, main, reference) {
  const heads = ["model", ...metrics, "coverage", `${main} against ${reference}`];
  const interval = ({ low, high }) => h("small", {}, `${low.toFixed(3)}–${high.toFixed(3)}`);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": `Metrics, ${caption}` },
    h(
      "table",
      { class: "scores" },
      h("caption", {}, h("span", {}, `All metrics, ${caption}`)),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            { class: row.is_highlighted ? "highlighted" : null },
            h("th", { scope: "row" }, row.name),
            row.cells.map((cell) =>
              h(
                "td",
                {},
                h("span", { class: cell.is_best ? "best" : null }, cell.interval.mean.toFixed(4)),
                interval(cell.interval),
              ),
            ),
            h("td", {}, share(row.coverage)),
            h(
              "td",
              {},
              row.difference && [
                signed(row.difference.mean, 4),
                h("small", {}, `${signed(row.difference.low, 3)} to ${signed(row.difference.high, 3)}`),
              ],
            ),
          ),
        ),
      ),
    ),
  );
}

// --- semantic IDs
function codes({ levels, health, collision_rate: left }) {
  const areOwn = health.moved === undefined; // brought along: how they were made is not known
  const facts = areOwn
    ? [["Collisions", share(left), "Items that share all codes with another."]]
    : [
        ["Collisions at first", share(health.collision_rate), "Items whose first choice of codes also named another item."],
        ["Moved", share(health.moved), "Items that were given their next best codes, so that names become unique."],
        ["Collisions left", share(left), "Items that still share all codes with another."],
        ["Neighbors kept", share(health.neighbors_kept), "Of an item’s ten nearest neighbors, those still among its nearest when only the codes are known."],
        ["Left out, level by level", health.error_share.map(share).join(", "), "Variance of the items that the codes up to a level do not explain; each level should lower it."],
      ];
  return h(
    "section",
    { "aria-labelledby": "ids" },
    h("h2", { id: "ids" }, "Semantic IDs"),
    h("p", {}, "One bar per code, the most used first. Even use means that every code says something; codes that no item uses are dead. ", h("a", { href: "#/tree" }, "Walk through the tree"), "."),
    areOwn && h("p", { class: "note" }, "These semantic IDs were brought along, so that nothing is known of what they leave out of the items."),
    h("div", { class: "levels" }, levels.map((level, place) => usageBars(level, place + 1))),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Health of the codes" },
      h(
        "table",
        { class: "facts" },
        h("caption", {}, h("span", {}, "Health of the codes")),
        h("thead", { class: "hidden" }, h("tr", {}, ["measure", "value", "meaning"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, facts.map(([name, value, meaning]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value), h("td", {}, meaning)))),
      ),
    ),
    health.information && information(health.information),
  );
}

function information(found) {
  return [
    h("h3", {}, "What the first code knows"),
    h("p", { class: "quiet" }, "Agreement of the first code with clusters made from one kind of evidence alone (adjusted mutual information): 0 is chance, 1 the same grouping."),
    h(
      "dl",
      { class: "dots thick" },
      Object.entries(found).map(([kind, value]) => {
        const mark = kind === "behavior" ? "highlighted" : null;
        const width = `${Math.max(100 * value, 0)}%`;
        return [
          h("dt", { class: mark }, kind),
          h("dd", { class: "track", "aria-hidden": "true" }, h("i", { style: { left: "0", width } })),
          h("dd", { class: mark }, value.toFixed(2)),
        ];
      }),
    ),
  ];
}

// --- learning
const training = ({ charts, best_epoch: best }) =>
  h(
    "section",
    { "aria-labelledby": "training" },
    h("h2", { id: "training" }, "Training"),
    h("p", {}, `Epoch ${best}, the dashed line, was best on the validation users and is the one kept. Horizontal: epoch; losses are means over the epoch’s batches.`),
    h("div", { class: "charts" }, charts.map(curve)),
  );

function similarity({ heat_tables: tables, repeats, neighbors, ages }) {
  const heads = (number) => Array.from({ length: number }, (_, head) => `head ${head + 1}`);
  const hasRepeats = repeats.rows !== undefined;
  return [
    h(
      "section",
      { "aria-labelledby": "similarity" },
      h("h2", { id: "similarity" }, "Learned similarity"),
      tables.length
        ? [
            h("p", {}, "How much more (warm) or less (cool) one item of a history attends to another, by how alike the two are. Attention begins without any of this; every number was learned."),
            heats(tables, 3, (table) => ({
              caption: `Likeness by ${table.name.replaceAll("_", " ")}`,
              corner: "pair of items",
              columns: heads(table.num_heads),
            })),
          ]
        : h("p", {}, "The similarity bias is switched off in this run."),
      hasRepeats && [
        h("h3", {}, "Do people come back?"),
        h("p", {}, "What is added to an item’s score when the user already had it, by how many events ago; one unit is a factor of 2.7 in probability."),
        h("div", { class: "heats" }, heatTable({
          caption: "Added to the score of an item had before",
          corner: "events ago",
          columns: repeats.rows.map(([label]) => label),
          rows: [["score", repeats.rows.map(([, cells]) => cells[0])]],
          decimals: 1,
        })),
      ],
      neighbors.length > 0 && [
        h("h3", {}, "What is likeness worth?"),
        h("p", {}, "What is added to a new item’s score for each of the latest items that it is a near neighbor of: by how alike they are, and how many events ago that item was."),
        heats(neighbors, 2, (table) => ({
          caption: `Neighbors by ${table.name}`,
          corner: "events ago",
          columns: ages.slice(0, table.num_heads),
        })),
      ],
    ),
  ];
}

/** Tables beside each other; of one that says nothing it is said why. */
function heats(tables, decimals, describe) {
  const isTold = ({ largest }) => largest >= 0.5 * 10 ** -decimals; // else all are shown as 0
  const told = tables.filter(isTold);
  const zero = (0).toFixed(decimals);
  return [
    told.length > 0 &&
      h("div", { class: "heats" }, told.map((table) =>
        heatTable({ ...describe(table), rows: table.rows, decimals }),
      )),
    tables.filter((table) => !isTold(table)).map((table) =>
      h(
        "p",
        { class: "note" },
        h("b", {}, describe(table).caption),
        `: every number is ${zero}, so nothing was learned here. That is so where all items are equally alike, as they can be in a very small catalog.`,
      ),
    ),
  ];
}
