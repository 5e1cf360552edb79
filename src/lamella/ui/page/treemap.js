// Files of a layer by size: nested boxes, to be entered; what the layers above hide is hatched.

import { ask, count, el, problem, replace, shown, size, unread } from "./kit.js";

// Split a rectangle among weights, keeping the pieces near to square.
export function squarify(weights, left, top, width, height) {
  const places = [];
  let rest = weights.reduce((sum, each) => sum + each, 0);
  let start = 0;
  while (start < weights.length && rest > 0 && width > 0 && height > 0) {
    const side = Math.min(width, height);
    const scale = (width * height) / rest;
    let end = start;
    let sum = 0;
    let best = Infinity;
    while (end < weights.length) {
      const next = sum + weights[end];
      const thick = (next * scale) / side;
      const longest = (weights[start] * scale) / thick;
      const shortest = (weights[end] * scale) / thick;
      const worst = Math.max(longest / thick, thick / longest, thick / Math.max(shortest, 1e-9), shortest / thick);
      if (worst > best) break;
      best = worst;
      sum = next;
      end += 1;
    }
    const thick = (sum * scale) / side;
    let at = 0;
    for (let index = start; index < end; index += 1) {
      const length = (weights[index] * scale) / thick;
      places.push(width >= height
        ? { left, top: top + at, width: thick, height: length }
        : { left: left + at, top, width: length, height: thick });
      at += length;
    }
    if (width >= height) { left += thick; width -= thick; } else { top += thick; height -= thick; }
    rest -= sum;
    start = end;
  }
  return places;
}

const pixels = (place) => ({ left: `${place.left}px`, top: `${place.top}px`, width: `${Math.max(0, place.width - 1)}px`, height: `${Math.max(0, place.height - 1)}px` });

const hatch = (item) => el("span", { class: "hatch", style: { height: `${(100 * item.hidden) / item.size}%` } });

export class TreeMap {
  constructor(layer, stack) {
    this.layer = layer;
    this.stack = stack;
    this.trail = [];
    this.turn = 0;
    this.text = "";
    this.document = null;
    this.crumbs = el("div", { class: "crumbs" });
    this.map = el("div", { class: "map", role: "group", "aria-label": "Files by size. Enter goes into a directory, Backspace back up.", onkeydown: (event) => this.key(event) });
    this.summary = el("div");
    this.list = el("div");
    this.troubles = el("div");
    this.element = el("div", { class: "files" }, this.summary, this.crumbs, this.map,
      el("p", { class: "key" }, el("span", {}, el("i"), "hidden by a layer above")), this.troubles, this.list);
    new ResizeObserver(() => { if (this.document && this.map.clientWidth && this.map.clientWidth !== this.width) this.paint(); }).observe(this.map);
  }

  async open(trail = [], { focus = false } = {}) {
    const turn = ++this.turn;
    const path = trail.map((step) => step.ref).join("/");
    let document;
    try {
      document = await ask("files", { layer: this.layer, stack: this.stack }, { raw: path ? `path=${path}` : "" });
    } catch (error) {
      if (turn !== this.turn) return;
      this.text = "";
      this.document = null;
      replace(this.map, problem(error));
      this.list.replaceChildren();
      return;
    }
    if (turn !== this.turn) return;
    const text = JSON.stringify(document);
    if (text !== this.text) {
      this.trail = trail;
      this.text = text;
      this.draw(document);
    }
    if (focus) (this.map.querySelector("button") || this.crumbs.querySelector("button")).focus();
  }

  draw(document) {
    this.document = document;
    const wasted = document.wasted;
    this.summary.replaceChildren(this.trail.length ? "" : el("dl", { class: "figures" },
      ...[["Files", document.files.toLocaleString("en"), ""], ["Size", size(document.size), ""], ["Hidden here", size(document.hidden), document.hidden ? "lost" : ""],
        ["Wasted", wasted === null ? "not told" : size(wasted), wasted ? "lost" : ""]].map(([name, value, state]) =>
        el("div", { title: { "Hidden here": "Overwritten or deleted by a layer above, in this image", Wasted: "Hidden in every image that has the layer: no one can read it" }[name] }, el("dt", { text: name }), el("dd", { class: state || null, text: value })))));
    this.summary.className = this.trail.length ? "" : "map-figures";
    replace(this.crumbs, ...[{ name: "/" }, ...this.trail].map((step, index, all) =>
      el("button", { type: "button", "aria-current": index === all.length - 1 ? "true" : null, onclick: () => this.open(this.trail.slice(0, index), { focus: true }) },
        index === 0 ? "/" : `${shown(step.name)}/`)));
    this.paint();
    this.troubles.replaceChildren(...unread(document.problems));
    const rows = document.items.filter((item) => item.kind !== "rest").slice(0, 8);
    this.list.replaceChildren(rows.length ? el("table", {}, el("thead", {}, el("tr", {}, el("th", { text: "Name" }), el("th", { class: "n", text: "Size" }), el("th", { class: "n", text: "Hidden" }))),
      el("tbody", {}, rows.map((item) => el("tr", {},
        el("td", { class: "mono", text: shown(item.name) + (item.kind === "directory" ? "/" : "") }),
        el("td", { class: "n", text: size(item.size) }),
        el("td", { class: "n" }, item.hidden ? el("span", { class: "bad", text: item.fate ? `${item.fate} by layer ${item.by}` : size(item.hidden) }) : ""))))) : "");
  }

  paint() {
    const { items } = this.document;
    this.width = this.map.clientWidth;
    const width = this.width || 420;
    const height = this.map.clientHeight || 296;
    const weighty = items.filter((item) => item.size > 0);
    if (!weighty.length) {
      replace(this.map, el("p", { class: "empty", text: items.length ? `${count(this.document.files, "file")}, all of them empty` : "No files here" }));
      return;
    }
    const places = squarify(weighty.map((item) => item.size), 0, 0, width, height);
    replace(this.map, ...places.map((place, index) => this.cell(weighty[index], place)));
  }

  cell(item, place) {
    const folder = item.kind === "directory";
    const name = item.kind === "rest" ? `${count(item.files, "smaller file")}` : shown(item.name) + (folder ? "/" : "");
    const told = `${name}, ${size(item.size)}${item.hidden ? `, ${size(item.hidden)} hidden` : ""}`;
    const cell = el(item.kind === "rest" ? "div" : "button", { class: `cell ${folder ? "folder" : "file"}`, style: pixels(place), title: told, "aria-label": told, type: item.kind === "rest" ? null : "button",
      onclick: folder ? () => this.open([...this.trail, { name: item.name, ref: item.ref }], { focus: true }) : null });
    const titled = place.width > 40 && place.height > 18;
    if (titled) cell.append(el("span", { class: "title" }, el("b", { text: name }), place.width > 110 ? el("span", { text: size(item.size) }) : null));
    if (folder && titled) this.nest(cell, item.items || [], { left: 3, top: 20, width: place.width - 6, height: place.height - 24 }, 1);
    else if (item.hidden) cell.append(hatch(item));
    return cell;
  }

  // What is in a directory, drawn in its box as far down as there is room.
  nest(box, items, room, depth) {
    if (room.width < 18 || room.height < 12) return;
    const weighty = items.filter((item) => item.size > 0);
    squarify(weighty.map((item) => item.size), room.left, room.top, room.width, room.height).forEach((place, index) => {
      const item = weighty[index];
      if (place.width < 4 || place.height < 4) return;
      const named = place.width > 44 && place.height > 16 && item.name;
      const below = named && item.items && place.height > 44 ? item.items : null;
      const sub = el("span", { class: `sub d${depth} ${item.kind === "directory" ? "" : "file"}`, style: pixels(place) },
        item.hidden && !below ? hatch(item) : null, named ? el("span", { class: "word", text: shown(item.name) }) : null);
      if (below) this.nest(sub, below, { left: 2, top: 16, width: place.width - 5, height: place.height - 19 }, depth + 1);
      box.append(sub);
    });
  }

  key(event) {
    if (event.key === "Backspace" && this.trail.length) {
      event.preventDefault();
      this.open(this.trail.slice(0, -1), { focus: true });
      return;
    }
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = event.target.closest(".cell");
    if (!way || !here) return;
    event.preventDefault();
    const middle = (cell) => [cell.offsetLeft + cell.offsetWidth / 2, cell.offsetTop + cell.offsetHeight / 2];
    const [x, y] = middle(here);
    let best = null;
    let least = Infinity;
    for (const cell of this.map.querySelectorAll("button.cell")) {
      const [cx, cy] = middle(cell);
      const along = (cx - x) * way[0] + (cy - y) * way[1];
      const aside = Math.abs((cx - x) * way[1]) + Math.abs((cy - y) * way[0]);
      if (cell !== here && along > 1 && along + 2 * aside < least) { best = cell; least = along + 2 * aside; }
    }
    if (best) best.focus();
  }
}
