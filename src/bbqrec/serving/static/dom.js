// Elements made from values: text is always text, so that nothing a stranger wrote can be markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `on…` are listeners, `style` sets properties, null and false leave out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [property, set] of Object.entries(value)) element.style.setProperty(property, set);
    } else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** New children for `element`; what had the focus keeps it, or its successor gets it. */
export function renew(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset.key;
  const place = focused ? keyed(element).indexOf(focused) : -1;
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (!focused) return;
  const left = keyed(element);
  const same = left.find((candidate) => candidate.dataset.key === key);
  (same ?? left[Math.min(place, left.length - 1)] ?? element.closest("[tabindex]"))?.focus({
    preventScroll: true,
  });
}

const keyed = (element) => [...element.querySelectorAll("[data-key]")];

/** Tell whoever cannot see that something changed. */
export function say(words) {
  document.getElementById("said").textContent = words;
}

const whole = new Intl.NumberFormat("en");
export const count = (number) => whole.format(number);
export const some = (number, one, many = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : many}`;

/** 0.2791 as 28%, 0.0123 as 1.2%, 0.000041 as 0.0041%. */
export function percent(share) {
  const value = 100 * share;
  if (value >= 10) return `${Math.round(value)}%`;
  if (value >= 1) return `${value.toFixed(1)}%`;
  return value > 0 ? `${Number(value.toPrecision(2))}%` : "0%";
}

/** With a sign, and a true minus; what rounds to nothing has none. */
export function signed(value, decimals = 2) {
  const text = Math.abs(value).toFixed(decimals);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}

export const times = (number) => (number === 1 ? "once" : `${count(number)} times`);
