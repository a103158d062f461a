// Drawings of numbers: dots with intervals, curves, bars, colored tables.

import { h, s, signed } from "./dom.js";

/** Means with intervals of several models on one axis, as `report.Panel` has them. */
export function dotPanel(panel, confidence) {
  const { title, note, dots, ticks } = panel;
  return h(
    "div",
    { class: "panel" },
    h("h4", {}, title),
    h("p", { class: "quiet" }, note),
    h(
      "dl",
      { class: "dots" },
      dots.map((dot) => {
        const { mean, low, high } = dot.interval;
        const mark = dot.is_highlighted ? "highlighted" : null;
        const words = `${confidence} interval ${low.toFixed(4)} to ${high.toFixed(4)}`;
        return [
          h("dt", { class: mark, title: dot.name }, dot.name),
          h(
            "dd",
            { class: "track", "aria-hidden": "true" },
            h("i", { style: { left: `${dot.low}%`, width: `${dot.width}%` } }),
            h("b", { style: { left: `${dot.left}%` } }),
          ),
          h(
            "dd",
            { class: mark, title: words },
            mean.toFixed(3),
            h("span", { class: "hidden" }, `, ${words}`),
          ),
        ];
      }),
      h(
        "dd",
        { class: "axis", "aria-hidden": "true" },
        ticks.map(([left, label]) => h("span", { style: { left: `${left}%` } }, label)),
      ),
    ),
  );
}

/** A curve over epochs, as `report.Chart` has it; the pointer reads it. */
export function curve(chart) {
  const readout = h("span", { class: "quiet", "aria-hidden": "true" });
  const pin = s("line", { class: "pin", y1: 12, y2: 154, visibility: "hidden" });
  const [left, right] = [44, 308];
  const last = chart.points.at(-1)[0];
  const read = (event) => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width) * 320;
    const wanted = 1 + ((share - left) / (right - left)) * Math.max(last - 1, 1);
    const near = (a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a);
    const [epoch, value] = chart.points.reduce(near);
    const x = left + ((epoch - 1) / Math.max(last - 1, 1)) * (right - left);
    pin.setAttribute("x1", x);
    pin.setAttribute("x2", x);
    pin.setAttribute("visibility", "visible");
    readout.textContent = ` epoch ${epoch}: ${Number(value.toPrecision(4))}`;
  };
  const svg = s(
    "svg",
    {
      viewBox: "0 0 320 180",
      role: "img",
      "aria-label": chart.description,
      onpointermove: read,
      onpointerleave: () => {
        pin.setAttribute("visibility", "hidden");
        readout.textContent = "";
      },
    },
    chart.y_ticks.map(([y, label]) => [
      s("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
      s("text", { x: 36, y: y + 4, "text-anchor": "end" }, label),
    ]),
    chart.x_ticks.map(([x, label]) => s("text", { x, y: 174, "text-anchor": "middle" }, label)),
    pin,
    s("line", { class: "best-line", x1: chart.best[0], x2: chart.best[0], y1: 12, y2: 154 }),
    s("path", { class: "curve", d: chart.path }),
    s("circle", { class: "best-dot", cx: chart.best[0], cy: chart.best[1], r: 5 }),
  );
  return h("figure", {}, h("figcaption", {}, chart.title, readout), svg);
}

/** How often each code of a level is used, the most used first, as `report.Level` has it. */
export function usageBars(level, number) {
  const { num_codes: codes, num_used: used, largest, perplexity } = level;
  return h(
    "figure",
    {},
    h("figcaption", {}, `Level ${number}`),
    s(
      "svg",
      {
        class: "bars",
        viewBox: "0 0 100 100",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Items per code at level ${number}: the largest of ${used} used codes has ${largest}`,
      },
      s("path", { d: level.path }),
    ),
    h(
      "p",
      { class: "quiet" },
      `${used} of ${codes} codes used, ${codes - used} dead. As spread out as ` +
        `${perplexity.toFixed(1)} equal codes; the largest has ${largest} items.`,
    ),
  );
}

/** Values by row and column, warm above nothing and cool below, as `report.HeatTable` has them. */
export function heatTable({ caption, corner, columns, rows, decimals }) {
  return h(
    "div",
    { tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: "heat" },
      h("caption", {}, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, corner),
          columns.map((column) => h("th", { scope: "col" }, column)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([label, cells]) =>
          h(
            "tr",
            { class: label === "same item" ? "special" : null },
            h("th", { scope: "row" }, label.replaceAll(/-(?=\d)/g, "−")),
            cells.map(({ value, strength }) =>
              h(
                "td",
                {
                  style: {
                    "--mix": `${strength}%`,
                    "--hue": `var(--${value >= 0 ? "accent" : "cool"})`,
                  },
                },
                signed(value, decimals),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

/** One bar per entry, from a common zero to the right (more) or left (less). */
export function sumBars(entries, label) {
  const values = entries.map(([, value]) => value);
  const [low, high] = [Math.min(...values, 0), Math.max(...values, 1e-9)];
  const share = (value) => (100 * value) / (high - low);
  const zero = share(-low);
  return h(
    "dl",
    { class: "sums", "aria-label": label, style: { "--zero": `${zero}%` } },
    entries.map(([name, value]) => {
      const width = `${share(Math.abs(value))}%`;
      const left = `${value < 0 ? zero - share(-value) : zero}%`;
      return [
        h("dt", {}, name),
        h(
          "dd",
          { class: "track", "aria-hidden": "true" },
          h("i", { class: value < 0 ? "less" : null, style: { width, left } }),
        ),
        h("dd", {}, signed(value)),
      ];
    }),
  );
}
