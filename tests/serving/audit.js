// What a reader of the screen, or of small print, would stumble over: a list of complaints.
() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const tell = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);

  // Names and references
  const ids = all("[id]").map((element) => element.id);
  for (const id of new Set(ids)) {
    if (ids.filter((other) => other === id).length > 1) found.push(`id twice: ${id}`);
  }
  all("img:not([alt])").forEach((element) => tell("no alt", element));
  for (const name of ["aria-labelledby", "aria-controls", "for"]) {
    for (const element of all(`[${name}]`)) {
      const missing = element.getAttribute(name).split(" ").filter((id) => !ids.includes(id));
      if (missing.length) tell(`${name} of nothing`, element);
    }
  }
  for (const element of all("[role=region], svg[role=img]")) {
    if (!element.getAttribute("aria-label")) tell("no label", element);
  }
  for (const element of all("table")) if (!element.caption) tell("no caption", element);

  // Headings form an outline
  const levels = all("h1,h2,h3,h4").filter(shown).map((heading) => Number(heading.tagName[1]));
  const jumps = levels.some((level, i) => i > 0 && level > levels[i - 1] + 1);
  const numFirst = levels.filter((level) => level === 1).length;
  if (jumps || numFirst !== 1) found.push(`heading levels: ${levels}`);

  // Fingers hit what they mean (WCAG 2.2, 2.5.8), but for links within a text
  for (const element of all("button, a, input:not([type=checkbox]), select, summary")) {
    const box = element.getBoundingClientRect();
    const isInText = element.tagName === "A" && element.closest("p, li");
    const isSmall = box.width < 24 || box.height < 22;
    if (isSmall && shown(element) && !isInText && !element.matches(".skip")) {
      tell("too small to hit", element);
    }
  }

  // Text stands out from its ground (WCAG 2, 1.4.3)
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, alpha / 255];
  };
  const over = (top, below) =>
    top.slice(0, 3).map((value, i) => top[3] * value + (1 - top[3]) * below[i]);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(rgba(getComputedStyle(e).backgroundColor));
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (color) => {
    const [r, g, b] = color.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const unread = ".hidden, noscript, option, title, [aria-hidden=true]";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let numTexts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(element) || element.closest(unread)) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const above = over(rgba(element instanceof SVGElement ? style.fill : style.color), below);
    const [less, more] = [light(above), light(below)].sort((a, b) => a - b);
    const contrast = (more + 0.05) / (less + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 600);
    if (contrast < (isLarge ? 3 : 4.5)) tell(`contrast ${contrast.toFixed(2)}`, element);
    numTexts += 1;
  }
  if (numTexts < 20) found.push(`only ${numTexts} texts were looked at`);
  return found;
}
