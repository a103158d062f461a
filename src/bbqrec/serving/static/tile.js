// An item as something to look at: its picture, or a card with its title.

import { showPicture } from "./api.js";
import { h } from "./dom.js";

let hasPictures = false;
const pictured = new Map(); // item id -> whether there is a picture, as far as we have heard

/** Whether this run has pictures at all, and the shape of their frames. */
export function usePictures(are, ratio) {
  hasPictures = are;
  document.body.classList.toggle("wordy", !are);
  document.documentElement.style.setProperty("--ratio", ratio.toFixed(3));
}

/** The picture; `alt` is "" where the title stands beside it. */
export function picture(item, alt = "") {
  if (item.has_picture !== undefined) pictured.set(item.item_id, item.has_picture);
  if (!hasPictures || pictured.get(item.item_id) === false) return card(item, alt);
  const image = h("img", { alt, title: item.title, loading: "lazy", decoding: "async" });
  showPicture(image, item.item_id, () => {
    pictured.set(item.item_id, false);
    image.replaceWith(card(item, alt));
  });
  return image;
}

/** Without a picture: a colored card, the same for the same item, that shows its title. */
function card(item, alt) {
  const hue = [...item.item_id].reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 360, 7);
  return h(
    "span",
    {
      class: "card",
      dir: "auto",
      title: item.title,
      "aria-hidden": alt === "" ? "true" : null,
      style: { "--own": String(hue) },
    },
    item.title,
  );
}

/** Items side by side as pictures alone. */
export const wall = (items, alt = (item) => item.title) =>
  h("ul", { class: "wall" }, items.map((item) => h("li", {}, picture(item, alt(item)))));

/** The codes of a semantic ID, the last ones marked. */
export const chips = (codes, numOld = 0) =>
  h(
    "span",
    { class: "chips" },
    codes.map((code, level) => [
      level ? " " : "",
      h("span", { class: level >= numOld ? "code new" : "code" }, String(code)),
    ]),
  );
