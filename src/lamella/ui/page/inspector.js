// The panel beside the drawing: one layer, image or container.

import { ask, brief, chips, count, el, facts, figures, link, nameOf, problem, replace, short, shown, size, when } from "./kit.js";
import { TreeMap } from "./treemap.js";

export class Inspector {
  constructor(element, { onClose }) {
    this.element = element;
    this.onClose = onClose;
    this.turn = 0;
    element.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); onClose(); } });
  }

  async open(kind, id, stack, { focus = false } = {}) {
    await this.ask({ kind, id, stack }, { focus });
  }

  shows(kind, id) { return Boolean(this.shown) && this.shown.kind === kind && this.shown.id === id; }

  // The store has changed: show what is open as it is now, and leave alone what is as it was.
  async follow() {
    await this.ask(this.shown, {});
  }

  async ask(wanted, { focus = false }) {
    const turn = ++this.turn;
    const { kind, id, stack } = wanted;
    const same = Boolean(this.shown) && this.shown.kind === kind && this.shown.id === id && this.shown.stack === stack;
    const held = same ? this.map : null;
    let content;
    let text;
    try {
      const { version, ...document } = await ask(kind, { id, stack: kind === "layer" ? stack : "" });
      if (turn !== this.turn) return;
      text = JSON.stringify(document);
      if (!same || text !== this.text) content = { layer: layerPanel, image: imagePanel, container: containerPanel }[kind](document, stack, held);
    } catch (error) {
      if (turn !== this.turn) return;
      text = "";
      content = { kicker: kind, title: shown(short(id)), body: [problem(error)] };
    }
    this.shown = wanted;
    this.text = text;
    if (content) {
      const top = same ? this.element.scrollTop : 0;
      this.map = content.map || null;
      this.title = `${content.kicker} ${content.title}`;
      replace(this.element, el("header", {},
        el("div", {}, el("p", { class: "kicker", text: content.kicker }), el("h2", { class: content.mono ? "mono" : null, text: content.title })),
        el("button", { class: "ghost", type: "button", "aria-label": "Close", title: "Close (Esc)", text: "×", onclick: () => this.onClose() })), ...content.body);
      this.element.hidden = false;
      this.element.scrollTop = top;
    }
    if (focus && !same) this.element.focus();
    // Not waited for: of a large layer it takes a while.
    if (this.map) this.map.open(this.map === held ? held.trail : []);
  }

  close() {
    this.turn += 1;
    this.shown = null;
    this.map = null;
    this.title = "";
    this.element.hidden = true;
    this.element.replaceChildren();
  }
}

const ROLES = { image: "Layer", writable: "Writable layer", init: "Init layer", build: "Build cache layer", missing: "Missing layer" };

function layerPanel(layer, stack, held) {
  const map = layer.present ? held || new TreeMap(layer.id, stack) : null;
  const choices = [...layer.images.map((image) => ({ ...image, kind: "image" })), ...(layer.role === "image" ? [] : layer.containers.map((each) => ({ ...each, kind: "container" })))];
  // The map is of this one, also if it is a step of a build that the others are told instead of, or none.
  if (choices.length && !choices.some((each) => each.id === stack)) choices.unshift({ id: stack, name: stack ? "" : "none" });
  const step = layer.step ? brief(layer.step.instruction) : "";
  const body = [];
  if (layer.role === "missing") body.push(el("p", { class: "error-text", text: "This layer is not in the store: it was lost, or never unpacked. Pulling or loading the image again brings it." }));
  else if (!layer.present) body.push(el("p", { class: "error-text", text: "The directory with the layer's files is not there." }));
  if (map) {
    const chooser = choices.length > 1 ? el("select", { "aria-label": "As seen in", onchange: (event) => { location.hash = link("layer", layer.id, event.target.value); } },
      choices.map((each) => el("option", { value: each.id, selected: each.id === stack, text: nameOf(each) }))) : null;
    const seen = choices.find((each) => each.id === stack);
    if (chooser) body.push(el("p", { class: "as-seen muted" }, "As seen in ", chooser));
    else if (seen) body.push(el("p", { class: "as-seen muted", text: `As seen in ${nameOf(seen)}` }));
    body.push(map.element);
  }
  body.push(el("h3", { text: "Identity" }), facts([
    ["Directory", layer.directory], ["Chain ID", layer.chain_id], ["Diff ID", layer.diff_id], [layer.chain_id ? "Cache ID" : "Layer", layer.directory_id],
    ["Recorded size", layer.size === null ? "" : `${size(layer.size)} (${layer.size.toLocaleString("en")} bytes)`, true],
    ["Made", layer.step ? when(layer.step.created) : "", true]]));
  if (layer.image_count) body.push(el("h3", {}, "Images", el("span", { class: "muted", text: count(layer.image_count, "image") })), chips(layer.images, layer.image_count, "image"));
  if (layer.container_count) body.push(el("h3", {}, "Containers", el("span", { class: "muted", text: count(layer.container_count, "container") })), chips(layer.containers, layer.container_count, "container"));
  const kicker = [`${ROLES[layer.role]}${layer.number ? ` ${layer.number}` : ""}`, layer.step ? `step ${layer.step.number}` : ""].filter(Boolean).join(" · ");
  return { kicker, title: step || short(layer.id), mono: Boolean(step), body, map };
}

const words = (list) => (list.length ? list.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word))).join(" ") : "");

function imagePanel(image) {
  const settings = image.settings;
  // Layers are numbered, as they are wherever one layer is told from another; settings make none.
  let number = 0;
  const steps = image.steps.map((step) => el("li", { class: step.layer ? null : "meta", title: shown(step.instruction) },
    el("span", { class: "n", text: step.layer ? String(number += 1) : "·" }),
    step.layer ? el("a", { href: link("layer", step.layer, image.id) }, el("code", { text: brief(step.instruction) || short(step.layer) })) : el("code", { text: brief(step.instruction) }),
    el("span", { class: "size", text: step.layer ? size(step.size) : "" })));
  const body = [
    figures([["Size", size(image.size)], ["In no other", size(image.own)], ["Layers", String(image.layers), image.missing ? "lost" : ""]]),
    image.missing ? el("p", { class: "error-text", text: `${count(image.missing, "layer")} of it missing from the store.` }) : null,
    el("h3", { text: "Identity" }),
    facts([["Names", image.names.join(", ")], ["ID", image.id], ["Pulled as", image.digests.join(", ")], ["Created", when(image.created), true], ["Author", image.author, true], ["Platform", image.platform, true]]),
    image.containers.length ? el("h3", { text: "Containers" }) : null,
    image.containers.length ? chips(image.containers, image.containers.length, "container") : null,
    el("h3", {}, "Steps", el("span", { class: "muted", text: "base first" })), el("ol", { class: "steps" }, steps),
    el("h3", { text: "Settings" }),
    facts([["Entrypoint", words(settings.entrypoint)], ["Command", words(settings.cmd)], ["User", settings.user], ["Directory", settings.working_dir],
      ["Ports", settings.exposed_ports.join(" ")], ["Volumes", settings.volumes.join(" ")],
      ...settings.env.map((each, index) => [index ? " " : "Environment", each]),
      ...Object.entries(settings.labels).map(([key, value], index) => [index ? " " : "Labels", `${key}=${value}`])]),
  ].filter(Boolean);
  return { kicker: "Image", title: image.names.length ? shown(image.names[0]) : `untagged ${short(image.id)}`, body };
}

function containerPanel(container) {
  const body = [
    figures([["State", shown(container.status)], ["Process", container.pid ? String(container.pid) : "–"], ["Layers", String(container.layers.length)]]),
    el("h3", { text: "Identity" }),
    facts([["ID", container.id], ["Created", when(container.created), true], ["Merged", container.merged], ["Records", container.directory], ["Log", container.log], ["Volumes", container.volumes.join(", ")]]),
    el("h3", { text: "Image" }),
    container.image_present ? chips([{ id: container.image, name: container.image_name }], 1, "image") : el("p", { class: "muted", text: `${shown(container.image_name || short(container.image))}, removed` }),
    el("h3", {}, "Layers", el("span", { class: "muted", text: "topmost first" })),
    el("ol", { class: "steps" }, container.layers.map((layer, index) => el("li", {},
      el("span", { class: "n", text: String(container.layers.length - index) }),
      el("a", { href: link("layer", layer.id, container.id) }, el("code", { text: brief(layer.label) })),
      el("span", { class: "size", text: layer.size === null ? "" : size(layer.size) })))),
  ];
  return { kicker: "Container", title: nameOf(container), body };
}
