// The views beside the drawing: a path in all images, the ledger, the check.

import { ask, brief, chips, count, el, link, problem, replace, short, shown, size, tell, unread, when } from "./kit.js";

export class Find {
  constructor(form, input, found) {
    Object.assign(this, { form, input, found, turn: 0 });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const address = `#find/${encodeURIComponent(input.value)}`;
      if (location.hash === address) this.run(input.value); else location.hash = address;
    });
  }

  open(path) {
    if (path) this.input.value = path;
    this.run(path);
  }

  async run(path) {
    const turn = ++this.turn;
    this.path = path;
    if (!path) { this.found.replaceChildren(); this.text = ""; return; }
    let content;
    let text = "";
    try {
      const { version, ...document } = await ask("find", { path });
      text = JSON.stringify(document);
      content = answer(document);
    } catch (error) {
      content = [problem(error)];
    }
    if (turn !== this.turn || (text && text === this.text)) return;
    this.text = text;
    replace(this.found, ...content);
    tell(this.found.firstChild.textContent);
  }
}

function answer(document) {
  const total = document.versions.reduce((sum, version) => sum + version.count, 0);
  const kinds = document.versions.length;
  const everyone = total + document.absent_count + document.unreadable.length;
  const content = [el("p", { class: "summary", text: total
    ? `${count(kinds, "version")} in ${total.toLocaleString("en")} of ${count(everyone, "image")} and containers`
    : `No image or container has ${shown(document.path)}` })];
  for (const version of document.versions) {
    const stack = version.holders[0];
    content.push(el("article", { class: "card version" },
      el("div", { class: "head" },
        el("b", { text: version.kind === "link" ? `→ ${shown(version.target)}` : version.kind === "directory" ? "directory" : size(version.size) }),
        el("span", { class: "muted", text: [version.kind === "file" ? "" : version.kind === "link" ? "link" : "", version.mode, version.owner, when(version.modified)].filter(Boolean).join(" · ") }),
        version.path === document.path ? null : el("span", { class: "mono muted", text: shown(version.path) })),
      el("div", { class: "share", role: "img", "aria-label": `${version.count} of ${everyone}` }, el("i", { style: { width: `${(100 * version.count) / everyone}%` } })),
      el("p", { class: "from" }, el("a", { href: link("layer", version.layer, stack.id), title: shown(version.layer) }, short(version.layer)), `  ${brief(version.step)}`),
      chips(version.holders, version.count, "image")));
  }
  if (document.absent_count) content.push(el("article", { class: "card absent" }, el("div", { class: "head" }, el("b", { text: "absent" }), el("span", { class: "muted", text: `in ${document.absent_count.toLocaleString("en")}` })), chips(document.absent, document.absent_count, "image")));
  if (document.unreadable.length) content.push(el("article", { class: "card" }, el("div", { class: "head" }, el("b", { text: "cannot be told" })), el("ul", {}, document.unreadable.map((each) => el("li", { class: "muted", text: `${shown(each.name || short(each.id))}: ${shown(each.why)}` })))));
  return content;
}

// ------------------------------------------------------------------------------------------------ ledger

export class Ledger {
  constructor(element) {
    this.element = element;
    this.turn = 0;
    this.text = "";
    this.lengths = new Map();
  }

  async run() {
    const turn = ++this.turn;
    if (!this.element.childElementCount) this.element.replaceChildren(el("p", { class: "empty", text: "Measuring …" }));
    let content;
    let text = "";
    try {
      const document = await ask("ledger");
      text = JSON.stringify(document);
      if (turn !== this.turn || text === this.text) return;
      content = sheets(document, this.lengths);
    } catch (error) {
      content = [problem(error)];
    }
    if (turn !== this.turn) return;
    this.text = text;
    replace(this.element, ...content);
  }
}

const ORDER = ["layers", "images", "blobs", "containers", "logs", "volumes", "build", "lamella", "engine", "unaccounted"];
const swatch = (section) => `s${Math.max(0, ORDER.indexOf(section))}`;

// *lengths* holds how far each table was opened, so that it stays so.
function sheets(ledger, lengths) {
  const parts = ledger.sections.filter((section) => section.bytes > 0);
  const total = Math.max(1, ledger.bytes);
  const content = [
    el("dl", { class: "totals" }, [["On the disk", size(ledger.bytes)], ["Can be had back", size(ledger.reclaimable)], ["Inodes", ledger.inodes.toLocaleString("en")]].map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value })))),
    el("div", { class: "stackbar", "aria-hidden": "true" }, parts.map((section) => el("i", { class: swatch(section.section), style: { flex: `${section.bytes / total} 0 0` }, title: `${section.title}: ${size(section.bytes)}` }))),
    table(["", "Items", "Size", "Can be had back", "Inodes"], ledger.sections, (section) => [
      el("td", {}, el("span", { class: `swatch ${swatch(section.section)}` }), section.title), number(section.items.toLocaleString("en")), number(size(section.bytes)), number(section.reclaimable ? size(section.reclaimable) : "–"), number(section.inodes.toLocaleString("en"))]),
  ];
  content.push(...unread(ledger.problems));
  const lists = [
    ["Images", ledger.images.filter((image) => !image.build), ["Image", "Own", "Shared", "Size", "Can be had back"], (image) => [named("image", image.id, image.names[0]), number(size(image.own)), number(size(image.shared)), number(size(image.bytes)), number(image.reclaimable ? size(image.reclaimable) : "–")]],
    ["Containers", ledger.containers, ["Container", "State", "Writable", "Log", "Size"], (each) => [named("container", each.id, each.name), el("td", { text: shown(each.status) }), number(size(each.writable)), number(size(each.log)), number(size(each.bytes))]],
    ["Volumes", ledger.volumes, ["Volume", "Containers", "Size"], (volume) => [el("td", { text: shown(volume.name) }), number(String(volume.containers)), number(size(volume.bytes))]],
    ["Build cache", ledger.build_cache, ["What", "Size"], (item) => [el("td", { text: shown(item.what || item.id) }), number(size(item.bytes))]],
    ["Unaccounted", ledger.unaccounted, ["Path", "Why", "Size"], (item) => [el("td", { class: "mono", text: shown(item.path) }), el("td", { class: "muted", text: shown(item.why) }), number(size(item.bytes))]],
  ];
  for (const [title, rows, head, cells] of lists) {
    if (!rows.length) continue;
    content.push(el("h3", {}, title, el("span", { class: "muted", text: rows.length.toLocaleString("en") })), table(head, rows, cells, { key: title, lengths }));
  }
  return content;
}

const number = (text) => el("td", { class: "n", text });
const named = (kind, id, name) => el("td", {}, el("a", { href: link(kind, id), text: shown(name) || short(id) }));

const PAGE = 50;

// What was pressed has gone: the focus goes on to the first that it brought.
function onward(element) {
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

function table(head, rows, cells, { key = "", lengths = new Map() } = {}) {
  const body = el("tbody");
  const more = el("button", { type: "button", class: "quiet" });
  const show = (length) => {
    body.append(...rows.slice(body.childElementCount, length).map((row) => el("tr", {}, cells(row))));
    const left = rows.length - body.childElementCount;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(PAGE, left)} more of ${left.toLocaleString("en")}`;
  };
  more.addEventListener("click", () => {
    const from = body.childElementCount;
    lengths.set(key, from + PAGE);
    show(from + PAGE);
    if (more.hidden) onward(body.children[from]);
  });
  show(lengths.get(key) || PAGE);
  return el("div", {}, el("table", {}, el("thead", {}, el("tr", {}, head.map((title, index) => el("th", { class: index && index >= head.length - numbers(head) ? "n" : null, scope: "col", text: title })))), body), more);
}

const NUMBERS = new Set(["Items", "Size", "Can be had back", "Inodes", "Own", "Shared", "Writable", "Log"]);
const numbers = (head) => { let found = 0; while (found < head.length && NUMBERS.has(head[head.length - 1 - found])) found += 1; return found; };

// ------------------------------------------------------------------------------------------------ check

export class Check {
  constructor(button, deep, findings) {
    Object.assign(this, { button, deep, findings, busy: false });
    button.addEventListener("click", () => this.run());
  }

  // The button stays where the keyboard is; it only does nothing meanwhile.
  async run() {
    if (this.busy) return;
    this.busy = true;
    this.button.setAttribute("aria-disabled", "true");
    const begun = performance.now();
    const spent = el("span", { class: "muted" });
    const clock = setInterval(() => { spent.textContent = ` ${count(Math.round((performance.now() - begun) / 1000), "second")}`; }, 1000);
    const doing = this.deep.checked ? "Reading every file …" : "Looking at every record and every file …";
    tell(doing);
    this.findings.replaceChildren(el("p", { class: "empty", text: doing }), el("p", { class: "spent" }, spent));
    let content;
    try {
      content = verdict(await ask("check", { deep: this.deep.checked }));
    } catch (error) {
      content = [problem(error)];
    }
    clearInterval(clock);
    replace(this.findings, ...content);
    tell(this.findings.firstChild.textContent);
    this.button.removeAttribute("aria-disabled");
    this.busy = false;
  }

  // What was found was found in the store as it was.
  outdated() {
    const verdict = this.findings.querySelector(".verdict");
    if (verdict && !this.findings.querySelector(".outdated")) verdict.after(el("p", { class: "outdated", text: "The store has changed since." }));
  }
}

function verdict(report) {
  const { error, warning, note } = report.counts;
  const state = error ? "error" : warning ? "warning" : "ok";
  const told = [error && count(error, "error"), warning && count(warning, "warning"), note && count(note, "note")].filter(Boolean).join(", ");
  const list = el("div");
  const more = el("button", { type: "button", class: "quiet" });
  const show = () => {
    const from = list.childElementCount;
    list.append(...report.findings.slice(from, from + PAGE).map((finding) => el("div", { class: "finding" },
      el("span", { class: `sev ${finding.severity}`, text: finding.severity }),
      el("span", { title: shown(finding.text), text: brief(finding.text) }),
      el("span", { class: "path mono", text: shown(finding.path) }),
      finding.remedy ? el("span", { class: "remedy", text: `lamella fsck --heal: ${finding.remedy}` }) : null)));
    more.hidden = list.childElementCount >= report.findings.length;
    more.textContent = `Show more (${report.findings.length - list.childElementCount} left)`;
    if (from && more.hidden) onward(list.children[from]);
  };
  more.addEventListener("click", show);
  show();
  return [el("p", { class: "verdict" }, el("span", { class: `dot ${state}` }), state === "ok" ? "The store is sound" : told),
    el("p", { class: "muted", text: `${count(report.layers, "layer")} ${report.deep ? "read whole" : "looked at"}${state === "ok" && told ? `; ${told}` : ""}` }), list, more];
}
