// What may fail is tried here: whoever looks is told in words, and nothing fails unseen.

import { Problem } from "./api.js";
import { h } from "./dom.js";

const told = new WeakMap(); // place -> what is said there

/** The words for an error, as a live region; a mistake of the page itself is logged, too. */
export function problem(error) {
  if (!(error instanceof Problem)) console.error(error);
  return h("p", { class: "problem", role: "alert" }, error.message);
}

/**
 * Do `act`; where it fails, say so right after `place`, until it is tried again.
 * Whether that had to be said.
 */
export async function attempt(place, act) {
  unsay(place);
  try {
    await act();
    return false;
  } catch (error) {
    if (error.name === "AbortError") return false;
    unsay(place); // of another attempt that failed meanwhile
    const words = problem(error);
    told.set(place, words);
    place.after(words);
    words.scrollIntoView({ block: "nearest" });
    return true;
  }
}

/** Take back what was said after `place`. */
export function unsay(place) {
  told.get(place)?.remove();
  told.delete(place);
}
