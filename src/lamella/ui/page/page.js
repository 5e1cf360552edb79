// The page as a whole: which view is shown, what is open, keys, and following the store.

import { ask, count, say, shown, tell, unread } from "./kit.js";
import { Inspector } from "./inspector.js";
import { Stacks } from "./stacks.js";
import { Check, Find, Ledger } from "./views.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["stacks", "find", "ledger", "check"];

const stacks = new Stacks($("sheet"), $("ground"), $("overview"), { onCount: (columns) => say($("counts"), stacks.filter ? count(columns, "match").replace("matchs", "matches") : totals) });
const inspector = new Inspector($("inspector"), { onClose: () => closePanel() });
const find = new Find($("find-form"), $("path"), $("found"));
const ledger = new Ledger($("ledger"));
const check = new Check($("check-run"), $("deep"), $("findings"));
let totals = "";
let view = "";

function route() {
  const [name, ...rest] = location.hash.slice(1).split("/").map(decode);
  const wanted = VIEWS.includes(name) ? name : "stacks";
  const changed = wanted !== view;
  const left = view && changed ? document.activeElement : null;
  view = wanted;
  for (const each of VIEWS) $(`view-${each}`).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (view === "stacks") openPanel(rest);
  if (view === "find") { find.open(rest.join("/")); if (changed) $("path").focus(); }
  if (view === "ledger" && changed) ledger.run();
  // Who was in the view that has gone is in the one that has come.
  if (left && (left === document.body || left.closest("[hidden]"))) (view === "find" ? $("path") : $("main")).focus({ preventScroll: true });
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

async function openPanel([kind, id, stack]) {
  if (!["layer", "image", "container"].includes(kind) || !id) {
    inspector.close();
    stacks.select(null);
    return;
  }
  stacks.select(kind, id);
  const focus = inspector.element.hidden === false && inspector.element.contains(document.activeElement);
  await inspector.open(kind, id, stack || "", { focus });
  if (!inspector.shows(kind, id)) return;
  tell(`${inspector.title} is open; Tab leads into it`);
  await stacks.reveal(kind, id, stack || "").catch(() => {});
}

function closePanel() {
  history.pushState(null, "", "#stacks");
  route();
  const held = stacks.cursor && stacks.elements.get(stacks.cursor.number);
  if (held) held.focus(); else $("sheet").querySelector("[tabindex='0']")?.focus();
}

function toSearch() {
  if (view !== "find" && view !== "stacks") {
    history.pushState(null, "", "#stacks");
    route();
  }
  (view === "find" ? $("path") : $("filter")).focus();
}

async function refresh() {
  const store = await ask("store");
  document.title = `${store.root} – lamella`;
  $("root").textContent = `\u200e${shown(store.root)}`;
  $("root").title = shown(store.root);
  $("kind").textContent = `${{ docker: "Docker", "containers-storage": "Podman", containerd: "containerd" }[store.kind] || store.kind} · ${store.driver}`;
  totals = [count(store.images, "image"), count(store.layers, "layer"), count(store.containers, "container")].join(" · ");
  $("problems").hidden = !store.problem_count;
  $("problems").textContent = `${count(store.problem_count, "record")} cannot be read`;
  $("unread").replaceChildren(...unread(store.problems, store.problem_count));
  await stacks.refresh();
  if (view === "stacks" && inspector.shown) await inspector.follow();
  if (view === "find" && find.path) find.run(find.path);
  check.outdated();
  if (view === "ledger") ledger.run();
  document.documentElement.dataset.version = store.version;
}

function online() {
  $("live").className = "live on";
  $("live").removeAttribute("title");
  say($("live-text"), "live");
}

function offline(text) {
  $("live").className = "live off";
  $("live").title = shown(text);
  say($("live-text"), shown(text));
}

// Ask for the store's stamp over and over, while anyone looks; a stream would hold one of the few connections of a tab.
async function follow() {
  let told = "";
  for (;;) {
    if (!document.hidden) {
      try {
        const { version } = await ask("version");
        if (version !== told) {
          await refresh();
          told = version;
        }
        online();
      } catch (error) {
        told = "";  // what was asked for meanwhile has failed: all is asked anew
        offline(error.message);
      }
    }
    await new Promise((done) => { setTimeout(done, 700); });
  }
}

let typing = 0;
$("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { stacks.filter = $("filter").value.trim(); $("sheet").scrollLeft = 0; stacks.cursor = null; stacks.refresh(); }, 120);
});
$("filter").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); $("sheet").querySelector(".box[tabindex='0']")?.focus(); }
});
$("steps").addEventListener("change", () => { stacks.steps = $("steps").checked; stacks.refresh(); });
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => {
    for (const each of document.querySelectorAll("[data-zoom]")) each.setAttribute("aria-pressed", String(each === button));
    stacks.setZoom(Number(button.dataset.zoom));
  });
}
$("help-button").addEventListener("click", () => $("help").showModal());
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("help").open) return;
  const writing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (writing) event.target.blur(); else if (view === "stacks" && location.hash.includes("/")) closePanel();
    return;
  }
  if (writing) return;
  if (VIEWS[event.key - 1]) location.hash = VIEWS[event.key - 1];
  else if (event.key === "/") { event.preventDefault(); toSearch(); }
  else if (event.key === "?") $("help").showModal();
});
route();
follow();
