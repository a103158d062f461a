// Which view is open, by the address after #; the theme; what is served.

import { get, onVersion } from "./api.js";
import { count, h, s } from "./dom.js";
import { showRun } from "./run.js";
import { usePictures } from "./tile.js";
import { showTree } from "./tree.js";
import { showTry } from "./try.js";

const VIEWS = { try: showTry, tree: showTree, run: showRun };
const TITLES = { try: "Try it", tree: "The ID tree", run: "The run" };
const main = document.getElementById("view");
const about = document.getElementById("about");
let catalog = null;
let shown = null;
let turn = 0;

async function open() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, place = ""] = path.split("/");
  const view = name in VIEWS ? name : "try";
  const mine = ++turn;
  try {
    catalog ??= await learn();
    const content = await VIEWS[view](catalog, place, new URLSearchParams(search), shown === view);
    if (mine !== turn || content === null) return;
    main.replaceChildren(...content);
  } catch (error) {
    if (mine !== turn) return;
    main.replaceChildren(trouble(error));
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} · ${catalog?.source ?? "bbqrec"} · bbqrec`;
  if (shown !== null) {
    main.focus({ preventScroll: true }); // a reader of the screen begins with what is new
    scrollTo(0, 0);
  }
  shown = view;
}

async function learn() {
  const found = await get("v1/catalog");
  usePictures(found.has_pictures, found.picture_ratio);
  const { source, num_items: items, num_users: users, model_version: version } = found;
  about.textContent =
    `Version ${version} of ${source}: ${count(items)} items, ${count(users)} people.`;
  return found;
}

/** Another version answers: the views that are open go on with what is known of it. */
async function learnAgain(version) {
  if (catalog === null || catalog.model_version === version) return;
  about.textContent = `Version ${version}.`;
  try {
    Object.assign(catalog, await learn());
  } catch {
    // The footer has the version; what else is asked says what is wrong.
  }
}

function trouble(error) {
  if (!(error instanceof Error && "status" in error)) console.error(error);
  return h(
    "section",
    { class: "trouble", role: "alert" },
    h("h1", {}, "That did not work"),
    h("p", {}, error.message),
    h("button", { type: "button", class: "primary", onclick: open }, "Try again"),
  );
}

// --- light, dark, or as the machine has it
const THEMES = {
  auto: ["as the system", "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm0 2.2v13.6a6.8 6.8 0 0 1 0-13.6z"],
  light: [
    "light",
    "M12 7.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM11 1.500h2v3.500h-2zM11 19h2v3.500h-2zM1.5 11H5v2H1.500z" +
      "M19 11h3.500v2H19zM3.9 5.300l1.4-1.4 2.5 2.5-1.4 1.400zM16.2 17.600l1.4-1.4 2.5 2.5-1.4 1.400z" +
      "M3.9 18.700l2.5-2.5 1.4 1.4-2.5 2.500zM16.2 6.400l2.5-2.5 1.4 1.4-2.5 2.500z",
  ],
  dark: ["dark", "M20.5 14.800A8.8 8.8 0 0 1 9.2 3.500a8.8 8.8 0 1 0 11.3 11.300z"],
};
const button = document.getElementById("theme");

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const [words, path] = THEMES[theme];
  button.setAttribute("aria-label", `Theme: ${words}`);
  button.title = `Theme: ${words}`;
  const icon = s("path", { d: path, "fill-rule": "evenodd" });
  button.replaceChildren(s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, icon));
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const now = names.indexOf(document.documentElement.dataset.theme);
  const next = names[(now + 1) % names.length];
  try {
    localStorage.setItem("bbqrec theme", next);
  } catch {
    // not kept where the browser keeps nothing
  }
  setTheme(next);
}

function keptTheme() {
  try {
    const kept = localStorage.getItem("bbqrec theme");
    return kept in THEMES ? kept : "auto";
  } catch {
    return "auto";
  }
}

button.addEventListener("click", nextTheme);
setTheme(keptTheme());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
onVersion(learnAgain);
addEventListener("hashchange", open);
open();
