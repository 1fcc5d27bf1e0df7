// The viewer of the case page: what is shown where, its buttons and its keys.
// The images are asked for while Cornerstone3D is still being loaded, so that the first one is drawn at once.

import { cut, acquired } from "./viewer/planes.js";
import { Series, fetched } from "./viewer/series.js";

const viewer = document.getElementById("viewer");
const field = (name) => document.getElementById(name);
const stage = field("stage");
const caseUrl = viewer.dataset.caseUrl;
const viewKey = `view:${caseUrl}`;
const parts = Promise.all([import("./viewer/engine.js"), import("./viewer/pane.js"), import("./viewer/tools.js")]);

const CT = [["Brain", 40, 80], ["Subdural", 75, 215], ["Bone", 600, 2800], ["Lung", -600, 1500], ["Abdomen", 50, 400]];
const SHARES = [["Default", 0, 1], ["Narrow", 0, 0.5], ["Wide", 0, 1.6], ["Bright", -0.2, 0.8], ["Dark", 0.25, 1.2]];

const panes = {}; // name -> Pane, made when first shown
let Pane = null;
let engine = null;
let tools = null;
let forget = () => {};
let active = null;
let layout = "single";
let priors = [];
const shown = { main: null, prior: null }; // the series of the case, and of the earlier study beside it

function pane(name) {
  if (panes[name]) return panes[name];
  const root = stage.querySelector(`[data-pane=${name}]`);
  const made = new Pane(root, engine);
  tools.add(made);
  made.onwindow = shareWindow;
  for (const event of ["focusin", "pointerdown"]) root.addEventListener(event, () => activate(made));
  root.addEventListener("wheel", (event) => onWheel(event, made), { passive: false });
  made.element.addEventListener("pointerdown", (event) => {
    made.element.focus({ preventScroll: true });
    if (event.button === 1) event.preventDefault();
  });
  made.element.addEventListener("contextmenu", (event) => event.preventDefault());
  panes[name] = made;
  return made;
}

const visible = () => Object.values(panes).filter((one) => !one.root.hidden);

// Planes of one series share their window.
function shareWindow(from) {
  for (const one of visible()) if (one !== from && one.plane && one.plane.series === from.plane.series) one.takeWindow(from);
}

function activate(one) {
  if (active === one) return;
  active = one;
  for (const other of Object.values(panes)) other.root.classList.toggle("active", other === one);
  showState();
}

function showState() {
  field("invert").setAttribute("aria-pressed", String(Boolean(active?.inverted)));
  field("planes").setAttribute("aria-pressed", String(layout === "planes"));
  field("prior").setAttribute("aria-pressed", String(layout === "beside"));
  field("planes").disabled = !shown.main?.about.planes.length;
  field("prior").disabled = !priors.length;
  field("clear").disabled = !tools.measured.length;
  for (const button of viewer.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tools.chosen));
  showPresets();
}

function presetsOf(about) {
  if (/^CT/.test(about.modality || "")) return CT;
  return SHARES.map(([name, level, wide]) => [name, about.window_centre + level * about.window_width, wide * about.window_width]);
}

function showPresets() {
  const about = active?.plane?.series.about;
  const wanted = about ? presetsOf(about) : [];
  const buttons = wanted.map(([name, level, wide], i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.title = `Shift+${i + 1}`;
    button.textContent = name;
    button.addEventListener("click", () => active.setWindow(level, wide));
    return button;
  });
  field("presets").replaceChildren(...buttons);
}

function optionsOf(series) {
  return series.map((entry) => {
    const option = new Option(`${entry.words} (${entry.images})`, entry.index);
    option.dataset.words = entry.words;
    return option;
  });
}

function fail(one, error) {
  if (error.name === "AbortError") return;
  one.clear(error.message);
  if (one.id === "main") viewer.dataset.state = "failed";
}

function leave(name) {
  const series = shown[name];
  if (!series) return;
  series.close();
  tools.clear(tools.measured.filter((one) => one.metadata.FrameOfReferenceUID === `series-${series.key}`).map((one) => one.annotationUID));
  forget(series);
  shown[name] = null;
}

function firstOf({ about }, kept) {
  return Math.min(about.depth - 1, kept.index ?? Math.floor(about.depth / 2));
}

// Open a series in the main pane or in that of the earlier study; its middle image is drawn before the others come.
async function openSeries(name, opening, label, kept = {}) {
  const one = pane(name);
  leave(name);
  one.clear("Loading images…");
  one.opening = opening;
  const series = await opening;
  if (one.opening !== opening) { series.close(); return; }
  shown[name] = series;
  if (!series.about.depth) {
    one.clear(series.about.notes[0] || "None of these images can be shown.");
    if (name === "main") finish("empty");
    return;
  }
  const first = firstOf(series, kept);
  series.fill(first);
  one.part("corner-series").textContent = label;
  await one.show(acquired(series), first, kept);
  one.say("");
  if (name === "main") finish("ready");
}

function finish(state) {
  viewer.dataset.state = state;
  field("notes").textContent = state === "ready" ? shown.main.about.notes.join(" ") : "";
  if (layout === "planes" && !shown.main?.about.planes.length) arrange("single");
  if (layout === "planes") openPlanes();
  showState();
}

function openPlanes() {
  const series = shown.main;
  cut(series).forEach(async (plane, i) => {
    const one = pane(["first", "second"][i]);
    if (one.plane?.series === series) return;
    one.clear("Loading the other images…");
    series.oncount = (count) => { for (const name of ["first", "second"]) if (!panes[name].plane || panes[name].drawn < 0) panes[name].say(`Loading ${count} of ${series.about.depth} images…`); };
    try {
      await one.show(plane, Math.floor(plane.depth / 2), panes.main);
      one.say("");
    } catch (error) {
      fail(one, error);
    }
  });
}

function arrange(wanted) {
  layout = wanted;
  stage.dataset.layout = layout;
  const names = { single: ["main"], planes: ["main", "first", "second"], beside: ["main", "prior"] }[layout];
  for (const root of stage.querySelectorAll("[data-pane]")) root.hidden = !names.includes(root.dataset.pane);
  field("prior-tools").hidden = layout !== "beside";
  if (active && active.root.hidden) activate(panes.main);
  engine.resize(true, false);
  for (const one of visible()) if (one.plane) one.fit();
  if (layout === "planes") openPlanes();
  if (layout === "beside" && !shown.prior) openPrior();
  showState();
}

async function openPrior() {
  const one = pane("prior");
  const prior = priors[field("prior-pick").selectedIndex];
  try {
    one.clear("Loading the earlier study…");
    const url = `${caseUrl}/priors/${prior.prior}/series`;
    const { series } = await (await fetched(url)).json();
    field("prior-series").replaceChildren(...optionsOf(series));
    field("prior-series").disabled = series.length < 2;
    if (!series.length) one.clear("The earlier study holds no image that can be shown.");
    else await openPriorSeries();
  } catch (error) {
    fail(one, error);
  }
}

async function openPriorSeries() {
  const prior = priors[field("prior-pick").selectedIndex];
  const option = field("prior-series").selectedOptions[0];
  await openSeries("prior", Series.open(`${caseUrl}/priors/${prior.prior}/series/${option.value}`), `EARLIER  ${prior.words}  ${option.dataset.words}`)
    .catch((error) => fail(pane("prior"), error));
}

async function askForPriors() {
  ({ priors } = await (await fetched(`${caseUrl}/priors`)).json());
  field("prior-pick").replaceChildren(...priors.map((prior) => new Option(prior.words, prior.prior)));
  field("prior-pick").disabled = priors.length < 2;
  showState();
}

// The same image and window again when the page comes back after a claim or a commit.
function keepView() {
  const main = panes.main;
  if (!main?.plane) return;
  const { flipHorizontal, flipVertical } = main.camera;
  const kept = { series: field("series-pick").value, index: main.wanted, window: main.window, inverted: main.inverted, flipHorizontal, flipVertical, layout };
  sessionStorage.setItem(viewKey, JSON.stringify(kept));
}

// The list of series and the first image are under way before there is anything to draw them with.
async function ask() {
  const { series } = await (await fetched(`${caseUrl}/series`)).json();
  const kept = JSON.parse(sessionStorage.getItem(viewKey) || "{}");
  const same = series.find((entry) => String(entry.index) === kept.series);
  const picked = same ?? series[0];
  const opening = picked && Series.open(`${caseUrl}/series/${picked.index}`);
  opening?.then((one) => { if (one.about.depth) one.fill(firstOf(one, same ? kept : {})); }).catch(() => {});
  return { series, picked, kept: same ? kept : {}, opening };
}

async function start() {
  const [core, paneModule, toolsModule] = await parts;
  ({ Pane } = paneModule);
  ({ forget } = core);
  const started = core.start();
  ({ engine } = started);
  viewer.dataset.rendering = started.rendering;
  tools = new toolsModule.Tools(engine, () => showState());
  activate(pane("main"));
}

async function open() {
  const asked = ask();
  asked.catch(() => {});
  await start();
  try {
    const { series, picked, kept, opening } = await asked;
    const pick = field("series-pick");
    if (!picked) {
      pick.options[0].textContent = "none";
      active.clear("This study holds no image that can be shown.");
      viewer.dataset.state = "empty";
      return;
    }
    pick.replaceChildren(...optionsOf(series));
    pick.disabled = series.length < 2;
    pick.value = picked.index;
    await openSeries("main", opening, picked.words, kept);
    if (kept.layout === "planes" && shown.main?.about.planes.length) arrange("planes");
    await askForPriors();
    if (kept.layout === "beside" && priors.length) arrange("beside");
  } catch (error) {
    fail(panes.main, error);
  }
}

function openPicked() {
  const pick = field("series-pick");
  const opening = Series.open(`${caseUrl}/series/${pick.value}`);
  return openSeries("main", opening, pick.selectedOptions[0].dataset.words).catch((error) => fail(panes.main, error));
}

let wheeled = 0;
function onWheel(event, one) {
  event.preventDefault();
  wheeled += event.deltaMode ? event.deltaY * 40 : event.deltaY;
  const steps = Math.trunc(wheeled / 40);
  if (!steps) return;
  wheeled -= steps * 40;
  one.go(one.wanted + Math.sign(steps) * Math.min(3, Math.abs(steps)));
}

const commands = {
  reset: () => active.reset(),
  invert: () => { active.setInverted(!active.inverted); showState(); },
  "flip-horizontal": () => active.flip("horizontal"),
  "flip-vertical": () => active.flip("vertical"),
  clear: () => tools.clear(),
  planes: () => { if (!field("planes").disabled) arrange(layout === "planes" ? "single" : "planes"); },
  prior: () => { if (!field("prior").disabled) arrange(layout === "beside" ? "single" : "beside"); },
  measure: () => choose(tools.chosen === "length" ? "window" : "length"),
};
const keys = { r: "reset", i: "invert", h: "flip-horizontal", p: "planes", b: "prior", m: "measure" };
const moves = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -Infinity, End: Infinity };

function choose(name) {
  tools.choose(name);
  showState();
}

function onKey(event) {
  const busy = event.target.closest("textarea, select, input:not([type=radio])");
  if (busy || !active || event.ctrlKey || event.altKey || event.metaKey) return;
  const digit = /^Digit([1-9])$/.exec(event.code);
  const about = active.plane?.series.about;
  const preset = event.shiftKey && digit && about && presetsOf(about)[digit[1] - 1];
  if (preset) active.setWindow(preset[1], preset[2]);
  else if (event.key in moves) active.go(active.wanted + moves[event.key]);
  else if (event.key === "+" || event.key === "-") active.zoomBy(event.key === "+" ? 1.25 : 0.8);
  else if (event.key === "Delete") tools.clearChosen();
  else if (!event.shiftKey && event.key in keys) commands[keys[event.key]]();
  else return;
  event.preventDefault();
}

for (const name of ["reset", "invert", "flip-horizontal", "flip-vertical", "clear", "planes", "prior"]) field(name).addEventListener("click", () => commands[name]());
for (const button of viewer.querySelectorAll("[data-tool]")) button.addEventListener("click", () => choose(button.dataset.tool));
field("series-pick").addEventListener("change", openPicked);
field("prior-pick").addEventListener("change", openPrior);
field("prior-series").addEventListener("change", openPriorSeries);
document.addEventListener("keydown", onKey);
window.addEventListener("pagehide", keepView);
new ResizeObserver(() => engine?.resize(true, true)).observe(stage);

open().catch(() => {
  field("message").textContent = "The viewer cannot start in this browser. Open the case in another one.";
  viewer.dataset.state = "failed";
});
