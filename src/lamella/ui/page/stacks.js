// The drawing: boxes are asked for as columns come into sight, and only those in sight are in the document.

import { ask, brief, count, el, link, short, shown, size } from "./kit.js";

const CHUNK = 64;
const MARGIN = 260;
const PAD = 18;
const GROUND = 14;
const GAP = 3;

export class Stacks {
  constructor(sheet, ground, overview, { onCount }) {
    this.sheet = sheet;
    this.ground = ground;
    this.overview = overview;
    this.onCount = onCount;
    this.filter = "";
    this.steps = false;
    this.zoom = 164;
    this.selected = null;
    this.cursor = null;
    this.elements = new Map();
    this.kin = null;
    this.forget();
    this.atBottom = true;
    sheet.addEventListener("scroll", () => this.soon(), { passive: true });
    sheet.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resized()).observe(sheet);
    overview.addEventListener("pointerdown", (event) => this.jump(event));
    overview.addEventListener("pointermove", (event) => event.buttons & 1 && this.jump(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paintOverview());
  }

  forget() {
    this.age = (this.age || 0) + 1;
    this.boxes = new Map();
    this.chunks = new Map();
    this.columns = null;
    this.height = 0;
  }

  get question() { return { filter: this.filter, steps: this.steps }; }

  // Read everything anew; what was under the cursor and what is in sight stays where it is.
  async refresh() {
    const held = this.cursor;
    const focused = this.sheet.contains(document.activeElement);
    const first = this.columns === null;
    this.forget();
    const age = this.age;
    await this.load(Math.floor(this.sheet.scrollLeft / this.zoom / CHUNK));
    if (age !== this.age) return;
    this.cursor = null;
    if (held) {
      const place = await ask("place", { ...this.question, kind: held.kind, id: held.id });
      if (age !== this.age) return;
      if (place.box !== null) await this.go(place.box, held.column, { focus: focused, scroll: false, near: place.column });
    }
    if (first) this.sheet.scrollTop = this.sheet.scrollHeight;
    this.draw();
    this.askOverview();
  }

  load(chunk) {
    let waiting = this.chunks.get(chunk);
    if (!waiting) {
      const age = this.age;
      waiting = ask("stacks", { ...this.question, from: chunk * CHUNK, to: (chunk + 1) * CHUNK }).then((document) => {
        if (age !== this.age) return;
        this.columns = document.columns;
        this.height = document.height;
        for (const box of document.boxes) this.boxes.set(box.number, box);
        this.measure();
        this.soon();
      }).catch((error) => { if (age === this.age) { this.chunks.delete(chunk); this.fail(error); } });
      this.chunks.set(chunk, waiting);
    }
    return waiting;
  }

  fail(error) {
    this.columns = this.columns ?? 0;
    this.elements.clear();
    this.ground.replaceChildren(el("p", { class: "error-text empty", role: "alert", text: shown(error.message) }));
  }

  measure() {
    const low = this.sheet.scrollHeight - this.sheet.scrollTop;
    this.ground.style.width = `${Math.max(0, this.columns * this.zoom + 2 * PAD)}px`;
    this.ground.style.height = `${this.height + GROUND + 28}px`;
    this.ground.style.setProperty("--room", `${Math.max(120, this.sheet.clientWidth - 40)}px`);
    this.sheet.classList.toggle("narrow", this.zoom < 100);
    if (this.atBottom) this.sheet.scrollTop = this.sheet.scrollHeight - low;
    this.onCount(this.columns);
  }

  resized() {
    const bottom = this.bottomEdge;
    if (this.columns !== null) this.measure();
    if (bottom !== undefined) this.sheet.scrollTop = this.sheet.scrollHeight - bottom - this.sheet.clientHeight;
    this.draw();
    this.paintOverview();
  }

  setZoom(zoom) {
    const middle = (this.sheet.scrollLeft + this.sheet.clientWidth / 2) / this.zoom;
    this.zoom = zoom;
    this.measure();
    this.sheet.scrollLeft = middle * zoom - this.sheet.clientWidth / 2;
    this.draw();
  }

  soon() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(); });
  }

  draw() {
    if (this.columns === null || !this.sheet.clientWidth) return;
    const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollHeight } = this.sheet;
    this.bottomEdge = scrollHeight - scrollTop - clientHeight;
    const first = Math.max(0, Math.floor((scrollLeft - MARGIN - PAD) / this.zoom));
    const last = Math.min(this.columns - 1, Math.floor((scrollLeft + clientWidth + MARGIN) / this.zoom));
    for (let chunk = Math.floor(first / CHUNK); chunk <= Math.floor(Math.max(0, last) / CHUNK); chunk += 1) this.load(chunk);
    const full = Math.max(this.height + GROUND + 28, clientHeight);
    const low = full - scrollTop - clientHeight - MARGIN;
    const high = full - scrollTop + MARGIN;
    const wanted = new Set();
    for (const box of this.boxes.values()) {
      const seen = box.column <= last && box.column + box.span > first && box.bottom < high && box.bottom + box.height > low;
      if (seen || (this.cursor && box.number === this.cursor.number)) wanted.add(box.number);
    }
    for (const [number, element] of this.elements) {
      if (!wanted.has(number) || this.boxes.get(number) !== element.box) { if (!wanted.has(number) || !this.redo(element, number)) { element.remove(); this.elements.delete(number); } }
    }
    this.kin = this.findKin();
    const fresh = [];
    for (const number of wanted) {
      let element = this.elements.get(number);
      if (!element) {
        element = this.make(this.boxes.get(number));
        this.elements.set(number, element);
        fresh.push(element);
      }
      this.put(element);
    }
    for (const other of [...this.ground.children]) if (!other.classList.contains("box")) other.remove();
    if (fresh.length) this.ground.append(...fresh);
    if (!this.columns) {
      this.ground.append(el("div", { class: "empty" }, el("b", { text: this.filter ? "Nothing matches" : "The store is empty" }),
        this.filter ? "No image or container has this in its name or ID." : "Images appear here as soon as there are any."));
    }
    this.stop();
    this.paintFrame();
  }

  // What the selected box stands on and what stands on it; the rest steps back.
  findKin() {
    if (!this.selected) return null;
    const kin = new Set();
    const chosen = [...this.boxes.values()].filter((box) => box.id === this.selected.id && kindOf(box) === this.selected.kind);
    if (!chosen.length) return null;
    for (const box of chosen) {
      for (let each = box; each; each = this.boxes.get(each.below)) kin.add(each.number);
    }
    for (const box of chosen) {
      const above = [...this.boxes.values()].filter((each) => each.bottom > box.bottom && each.column >= box.column && each.column < box.column + box.span);
      for (const each of above) kin.add(each.number);
    }
    return kin;
  }

  // After a change the same number may be another box: keep the element if it shows the same thing.
  redo(element, number) {
    const box = this.boxes.get(number);
    if (!box || box.kind !== element.box.kind || box.id !== element.box.id) return false;
    const next = this.make(box);
    element.replaceChildren(...next.childNodes);
    element.className = next.className;
    element.setAttribute("aria-label", next.getAttribute("aria-label"));
    element.box = box;
    return true;
  }

  put(element) {
    const { box } = element;
    const style = element.style;
    style.left = `${PAD + box.column * this.zoom}px`;
    style.bottom = `${GROUND + box.bottom}px`;
    style.width = `${box.span * this.zoom - GAP}px`;
    style.height = `${box.height - GAP}px`;
    const current = this.selected && this.selected.id === box.id && this.selected.kind === kindOf(box);
    if (current) element.setAttribute("aria-current", "true"); else element.removeAttribute("aria-current");
    element.classList.toggle("far", this.kin !== null && !this.kin.has(box.number));
  }

  make(box) {
    const words = describe(box);
    const tone = box.kind === "layer" ? (box.shared >= 16 ? "many" : box.shared >= 4 ? "more" : box.shared >= 2 ? "some" : "own") : "";
    const element = el("button", { type: "button", class: `box ${box.kind} ${tone}${box.gone ? " gone" : ""}`, tabindex: "-1", "data-kind": box.kind, "data-id": box.id, "data-span": box.span,
      "aria-label": words.full, title: words.full, onclick: (event) => this.choose(element.box, this.columnAt(event, element.box)) },
      el("span", { class: "in" },
        el("span", { class: "line" },
          box.kind === "container" ? el("span", { class: `dot ${box.status === "running" ? "on" : ""}` }) : null,
          el("span", { class: "name" }, el("bdi", { dir: "ltr", text: words.name })),
          words.size ? el("span", { class: "size", text: words.size }) : null),
        words.note && box.height >= 44 ? el("span", { class: "note", text: words.note }) : null));
    element.box = box;
    element.addEventListener("focus", () => {
      if (!this.cursor || this.cursor.number !== element.box.number) this.cursor = { ...held(element.box), column: this.columnOf(element.box) };
      this.stop();
    });
    return element;
  }

  // One box can be reached by Tab: that under the cursor, else the first one in sight.
  stop() {
    let target = this.cursor && this.elements.get(this.cursor.number);
    if (!target) {
      for (const element of this.elements.values()) if (element.box.kind === "image" && (!target || element.box.column < target.box.column)) target = element;
      target = target || this.elements.values().next().value;
    }
    for (const element of this.elements.values()) element.tabIndex = element === target ? 0 : -1;
  }

  columnOf(box) {
    const seen = Math.round((this.sheet.scrollLeft + 8) / this.zoom);
    const wanted = this.cursor ? this.cursor.column : seen;
    return within(box, wanted);
  }

  // The column that was pointed at, or by keyboard the one that is walked along.
  columnAt(event, box) {
    if (!event.detail) return this.columnOf(box);
    const column = Math.floor((event.clientX - this.ground.getBoundingClientRect().left - PAD) / this.zoom);
    return within(box, column);
  }

  inColumn(column) {
    return [...this.boxes.values()].filter((box) => box.column <= column && column < box.column + box.span).sort((a, b) => a.bottom - b.bottom);
  }

  // The image (or for a container's own layers the container) whose stack a box is looked at in.
  stackOf(box, column) {
    const own = box.kind === "init" || box.kind === "writable";
    const above = this.inColumn(column);
    const found = above.find((each) => each.kind === (own ? "container" : "image")) || above.find((each) => each.kind === "container");
    return found ? found.id : "";
  }

  choose(box, column) {
    this.cursor = { ...held(box), column };
    const kind = kindOf(box);
    if (kind === "loose") return;
    const address = link(kind, box.id, kind === "layer" ? this.stackOf(box, column) : "");
    if (location.hash === address) dispatchEvent(new HashChangeEvent("hashchange")); else location.hash = address;
  }

  select(kind, id) {
    this.selected = kind ? { kind, id } : null;
    this.kin = this.findKin();
    for (const element of this.elements.values()) this.put(element);
  }

  // Bring a box and the stack it is looked at in into sight, as little as is needed.
  async reveal(kind, id, stack = "") {
    const { cursor } = this;
    const box = cursor && cursor.kind === kind && cursor.id === id ? this.boxes.get(cursor.number) : null;
    if (box && (!stack || this.stackOf(box, cursor.column) === stack)) { await this.go(box.number, cursor.column, { focus: false }); return; }
    const place = await ask("place", { ...this.question, kind, id });
    if (place.box === null) return;
    const places = stack ? await Promise.all(["image", "container"].map((each) => ask("place", { ...this.question, kind: each, id: stack }))) : [];
    const above = places.find((each) => each.box !== null);
    await this.go(place.box, above ? above.column : place.column, { focus: false, near: place.column });
  }

  async go(number, wanted, { focus = true, scroll = true, near = wanted } = {}) {
    await this.load(Math.floor(wanted / CHUNK));
    if (!this.boxes.has(number)) await this.load(Math.floor(near / CHUNK));
    const box = this.boxes.get(number);
    if (!box) return;
    const column = within(box, wanted);
    this.cursor = { ...held(box), column };
    if (scroll) {
      const left = PAD + column * this.zoom;
      if (left < this.sheet.scrollLeft + PAD) this.sheet.scrollLeft = left - PAD;
      else if (left + this.zoom > this.sheet.scrollLeft + this.sheet.clientWidth) this.sheet.scrollLeft = Math.min(left - GAP, left + this.zoom + PAD - this.sheet.clientWidth);
      const full = this.ground.offsetHeight;
      const top = full - GROUND - box.bottom - box.height;
      if (top < this.sheet.scrollTop) this.sheet.scrollTop = top - 12;
      else if (top + box.height > this.sheet.scrollTop + this.sheet.clientHeight) this.sheet.scrollTop = top + box.height + GROUND - this.sheet.clientHeight;
    }
    this.draw();
    const element = this.elements.get(number);
    if (focus && element) element.focus({ preventScroll: true });
  }

  // From cap to cap, else to what is at the same height.
  async toColumn(column, level, from) {
    const target = Math.min(this.columns - 1, Math.max(0, column));
    await this.load(Math.floor(target / CHUNK));
    const boxes = this.inColumn(target);
    const cap = from.kind === "image" || from.kind === "container" ? boxes.find((each) => each.kind === "image") : null;
    const box = cap || boxes.find((each) => each.bottom <= level && level < each.bottom + each.height) || boxes.at(-1);
    if (box) await this.go(box.number, target);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !event.target.closest(".box")) return;
    const element = event.target.closest(".box");
    const { box } = element;
    const column = this.columnOf(box);
    const level = box.bottom + box.height / 2;
    const moves = {
      ArrowUp: () => { const next = this.inColumn(column).find((each) => each.below === box.number); if (next) this.go(next.number, column); },
      ArrowDown: () => { if (box.below !== null) this.go(box.below, column); },
      ArrowLeft: () => this.toColumn(box.column - 1, level, box),
      ArrowRight: () => this.toColumn(box.column + box.span < this.columns ? box.column + box.span : this.columns - 1, level, box),
      PageUp: () => this.toColumn(column - 10, level, box),
      PageDown: () => this.toColumn(column + 10, level, box),
      Home: () => this.toColumn(0, level, box),
      End: () => this.toColumn(this.columns - 1, level, box),
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  async askOverview() {
    const age = this.age;
    try {
      const document = await ask("overview", this.question);
      if (age === this.age) { this.shapes = document; this.paintOverview(); }
    } catch { /* the drawing itself tells of trouble */ }
  }

  paintOverview() {
    const { overview, shapes } = this;
    const ratio = devicePixelRatio || 1;
    const width = overview.clientWidth;
    const height = overview.clientHeight;
    if (!width || !shapes || !shapes.columns) { overview.getContext("2d").clearRect(0, 0, overview.width, overview.height); return; }
    overview.width = width * ratio;
    overview.height = height * ratio;
    const pen = overview.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const across = Math.min(width / shapes.columns, 24);
    const up = (height - 2) / Math.max(1, shapes.height);
    this.across = across;
    const paint = { l: colour("--tint"), i: colour("--cap"), c: colour("--live"), m: colour("--bad") };
    for (const [column, span, bottom, tall, kind, shared] of shapes.boxes) {
      pen.fillStyle = paint[kind];
      pen.globalAlpha = kind === "l" ? Math.min(0.85, 0.18 + 0.14 * Math.log2(shared || 1)) : 0.9;
      const wide = span * across;
      pen.fillRect(column * across, height - (bottom + tall) * up, Math.max(wide - (across > 4 ? 1 : 0), 0.4), Math.max(tall * up - 0.6, 0.5));
    }
    this.plain = pen.getImageData(0, 0, overview.width, overview.height);
    this.paintFrame();
  }

  paintFrame() {
    if (!this.plain || !this.across) return;
    const pen = this.overview.getContext("2d");
    pen.putImageData(this.plain, 0, 0);
    const { scrollLeft, clientWidth } = this.sheet;
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    pen.lineWidth = 1.5;
    const left = ((scrollLeft - PAD) / this.zoom) * this.across;
    const wide = Math.min((clientWidth / this.zoom), this.columns || 1) * this.across;
    pen.beginPath();
    pen.roundRect(Math.max(0.75, left), 0.75, Math.min(wide, this.overview.clientWidth - 1.5), this.overview.clientHeight - 1.5, 3);
    pen.stroke();
  }

  jump(event) {
    if (!this.across) return;
    const column = event.offsetX / this.across;
    this.sheet.scrollLeft = column * this.zoom - this.sheet.clientWidth / 2;
  }
}

export const kindOf = (box) => (["init", "writable", "missing"].includes(box.kind) ? "layer" : box.kind);

const within = (box, column) => Math.min(box.column + box.span - 1, Math.max(box.column, column));

const held = (box) => ({ number: box.number, kind: kindOf(box), id: box.id });

function describe(box) {
  const name = brief(box.label) || short(box.id);
  const bytes = box.size === null ? "" : size(box.size);
  switch (box.kind) {
    case "layer": {
      const sharing = box.shared > 1 ? `shared by ${count(box.shared, "image")}` : "";
      return { name, size: bytes, note: box.gone ? "directory missing" : sharing || short(box.id), full: `Layer: ${name}${bytes ? `, ${bytes}` : ""}${sharing ? `, ${sharing}` : ""}${box.gone ? ", its directory is missing" : ""}` };
    }
    case "missing": return { name, size: "", note: "missing", full: `Missing layer ${short(box.id)}: ${name}` };
    case "image": {
      // The end of a name tells more than its beginning.
      const [, place, last] = /^(.*\/)?(.*)$/.exec(name);
      return { name: box.label ? last : "untagged", size: "", note: [bytes, box.label && place ? place.slice(0, -1) : "", box.more ? `+${count(box.more, "name")}` : box.label ? "" : short(box.id)].filter(Boolean).join(" · "), full: `Image ${name}, ${bytes}` };
    }
    case "container": return { name, size: "", note: shown(box.status), full: `Container ${name}, ${shown(box.status)}` };
    case "init": return { name: "init", size: "", note: "", full: "Init layer of the container above" };
    case "writable": return { name: "writable layer", size: bytes, note: "", full: "Writable layer of the container above" };
    default: return { name: "no image", size: "", note: "", full: `No image stands on layer ${short(box.id)}` };
  }
}
