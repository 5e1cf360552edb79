// What all parts of the page use: elements, questions to the server, and how values are spelt.

export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "class") element.className = value;
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// Replace what is in an element. Who had the focus in it has it again, on what says the same or stands in its place.
export function replace(element, ...children) {
  const held = document.activeElement;
  const inside = held !== element && element.contains(held);
  const alike = (root) => [...root.querySelectorAll(held.tagName)];
  const place = inside ? alike(element).indexOf(held) : -1;
  element.replaceChildren(...children.flat(Infinity));
  if (!inside) return;
  const found = alike(element);
  const target = found.find((each) => saying(each) === saying(held)) || found[Math.min(place, found.length - 1)] || element.closest("[tabindex]");
  target.focus({ preventScroll: true });
}

const saying = (element) => element.getAttribute("href") || element.getAttribute("aria-label") || element.textContent;

// Tell those who do not see the page; what has been said already is not said again.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const tell = (text) => say(document.getElementById("said"), text);

export async function ask(name, question = {}, { raw = "", signal } = {}) {
  const query = Object.entries(question)
    .filter(([, value]) => value !== "" && value !== false && value !== null && value !== undefined)
    .map(([key, value]) => `${key}=${encodeURIComponent(value === true ? "1" : value)}`);
  if (raw) query.push(raw);
  let answer;
  try {
    answer = await fetch(`api/${name}${query.length ? `?${query.join("&")}` : ""}`, { signal });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("not connected");
  }
  const document = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(document.error || `the server answered ${answer.status}`);
  return document;
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export function when(text) {
  const date = typeof text === "number" ? new Date(text * 1000) : new Date(text);
  if (!text || Number.isNaN(date.getTime()) || date.getUTCFullYear() < 1971) return "";
  return date.toISOString().slice(0, 16).replace("T", " ");
}

// Names come from images, and an image may come from anyone: what cannot be seen is spelt out.
export function shown(text) {
  return String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu, (character) => {
    if (character === "\t" || character === "\n") return " ";
    return `\\u{${character.codePointAt(0).toString(16)}}`;
  });
}

// Long digests in a step's text say nothing to the eye.
export const brief = (text) => shown(text).replace(/\b([0-9a-f]{8})[0-9a-f]{24,}\b/g, "$1…");

export const short = (id) => String(id ?? "").replace(/^sha256:/, "").slice(0, 12);

export const nameOf = (thing) => shown(thing.name || short(thing.id));

export function link(kind, id, stack = "") {
  return `#stacks/${[kind, id, stack].filter(Boolean).map(encodeURIComponent).join("/")}`;
}

export function chips(things, total, kind) {
  const all = things.map((thing) =>
    el("a", { class: "chip", href: link(thing.kind || kind, thing.id), title: `${nameOf(thing)}\n${shown(thing.id)}` },
      (thing.kind || kind) === "container" ? el("span", { class: `dot${thing.status === "running" ? " on" : ""}` }) : null,
      nameOf(thing)));
  if (total > things.length) all.push(el("span", { class: "chip more", text: `and ${total - things.length} more` }));
  return el("div", { class: "chips" }, all);
}

export function facts(rows) {
  return el("dl", { class: "facts" }, rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value, plain]) => [el("dt", { text: name }), el("dd", { class: plain ? "plain" : null, text: shown(value) })]));
}

export function figures(rows) {
  return el("dl", { class: "figures" }, rows.map(([name, value, state]) =>
    el("div", {}, el("dt", { text: name }), el("dd", { class: state || null, text: value }))));
}

// What a reader could not make out, of *total* such things.
export function unread(problems, total = problems.length) {
  if (!problems.length) return [];
  return [el("h3", { text: "Cannot be read" }), el("ul", { class: "unread" }, problems.map((each) => el("li", { text: shown(each) })),
    total > problems.length ? el("li", { class: "muted", text: `and ${(total - problems.length).toLocaleString("en")} more` }) : null)];
}

export function problem(error) {
  return el("p", { class: "error-text", role: "alert", text: shown(error.message || error) });
}
