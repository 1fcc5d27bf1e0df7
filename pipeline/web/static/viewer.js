// The slice viewer: display values from the server, windowed here and drawn without any library.
// Wheel and arrows scroll, left drag windows, right drag zooms, middle drag pans.

const viewer = document.getElementById("viewer");
const stage = document.getElementById("stage");
const canvas = document.getElementById("slice");
const context = canvas.getContext("2d");
const pick = document.getElementById("series-pick");
const scroll = document.getElementById("scroll");
const message = document.getElementById("message");
const field = (name) => document.getElementById(name);

const CT = [["Brain", 40, 80], ["Subdural", 75, 215], ["Bone", 600, 2800], ["Lung", -600, 1500], ["Abdomen", 50, 400]];
const SHARES = [["Default", 0, 1], ["Narrow", 0, 0.5], ["Wide", 0, 1.6], ["Bright", -0.2, 0.8], ["Dark", 0.25, 1.2]];

let stack = null; // what the server said of the series
let values = null; // Uint16Array (depth, height, width)
let index = 0;
let centre = 0;
let width = 1;
let inverted = false;
let zoom = 1;
let shift = [0, 0];
let presets = [];
let queued = false;
const source = document.createElement("canvas");

const rounded = (number) => (Math.abs(number) >= 100 ? number.toFixed(0) : number.toPrecision(3));

function draw() {
  queued = false;
  const box = stage.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(box.width * ratio));
  canvas.height = Math.max(1, Math.round(box.height * ratio));
  if (!values) return;
  paintSlice();
  const tall = stack.height * stack.aspect;
  const scale = Math.min(canvas.width / stack.width, canvas.height / tall) * zoom;
  const w = stack.width * scale;
  const h = tall * scale;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (canvas.width - w) / 2 + shift[0] * ratio, (canvas.height - h) / 2 + shift[1] * ratio, w, h);
  showCorners();
}

function paintSlice() {
  const size = stack.width * stack.height;
  const image = new ImageData(stack.width, stack.height);
  const pixels = new Uint32Array(image.data.buffer);
  const low = (centre - width / 2 - stack.intercept) / stack.slope;
  const step = (255 * stack.slope) / width;
  const from = index * size;
  for (let i = 0; i < size; i += 1) {
    let grey = (values[from + i] - low) * step;
    grey = grey < 0 ? 0 : grey > 255 ? 255 : grey | 0;
    if (inverted) grey = 255 - grey;
    pixels[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  source.width = stack.width;
  source.height = stack.height;
  source.getContext("2d").putImageData(image, 0, 0);
}

function showCorners() {
  field("corner-slice").textContent = `Image ${index + 1} / ${stack.depth}`;
  field("corner-window").textContent = `W ${rounded(width)}  L ${rounded(centre)}${inverted ? "  inverted" : ""}${zoom === 1 ? "" : `  ×${zoom.toFixed(1)}`}`;
  scroll.value = index;
}

// The same slice and window again when the page comes back after a claim or a commit.
const viewKey = `view:${viewer.dataset.seriesUrl}`;

function keepView() {
  sessionStorage.setItem(viewKey, JSON.stringify({ series: pick.value, index, centre, width, inverted }));
}

function bringViewBack() {
  const kept = JSON.parse(sessionStorage.getItem(viewKey) || "null");
  if (!kept || kept.series !== pick.value) return;
  setInverted(kept.inverted);
  setWindow(kept.centre, kept.width);
  go(kept.index);
}

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(draw);
}

function go(to) {
  if (!stack || !stack.depth) return;
  index = Math.min(stack.depth - 1, Math.max(0, to));
  redraw();
}

function setWindow(level, wide) {
  centre = level;
  width = Math.max(wide, Math.abs(stack.slope));
  redraw();
}

function reset() {
  zoom = 1;
  shift = [0, 0];
  setInverted(false);
  if (stack && stack.depth) setWindow(stack.window_centre, stack.window_width);
}

function setInverted(on) {
  inverted = on;
  field("invert").setAttribute("aria-pressed", String(on));
  redraw();
}

function makePresets() {
  const isCt = /^CT/.test(stack.modality || "");
  presets = isCt ? CT : SHARES.map(([name, level, wide]) => [name, stack.window_centre + level * stack.window_width, wide * stack.window_width]);
  const buttons = presets.map(([name, level, wide], i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.title = `Shift+${i + 1}`;
    button.textContent = name;
    button.addEventListener("click", () => setWindow(level, wide));
    return button;
  });
  field("presets").replaceChildren(...buttons);
}

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

async function fetched(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (answer.redirected) throw new Error("Your session has ended. Sign in again; a draft is kept in this tab.");
  if (!answer.ok) throw new Error("The images cannot be fetched now. Reload the page to try again.");
  return answer;
}

async function openSeries(number) {
  values = null;
  viewer.dataset.state = "loading";
  say("Loading images…");
  const url = `${viewer.dataset.seriesUrl}/${number}`;
  stack = await (await fetched(url)).json();
  field("notes").textContent = stack.notes.join(" ");
  if (!stack.depth) {
    redraw();
    say(stack.notes[0] || "None of these images can be shown.");
    viewer.dataset.state = "empty";
    return;
  }
  values = new Uint16Array(await (await fetched(`${url}/pixels`)).arrayBuffer());
  ["left", "right", "top", "bottom"].forEach((side, i) => { field(`edge-${side}`).textContent = stack.edges[i]; });
  field("corner-series").textContent = pick.options[pick.selectedIndex].dataset.words;
  scroll.max = stack.depth - 1;
  index = Math.floor(stack.depth / 2);
  makePresets();
  reset();
  bringViewBack();
  say("");
  viewer.dataset.state = "ready";
}

async function open() {
  try {
    const { series } = await (await fetched(viewer.dataset.seriesUrl)).json();
    if (!series.length) {
      pick.options[0].textContent = "none";
      say("This study holds no image that can be shown.");
      viewer.dataset.state = "empty";
      return;
    }
    const options = series.map((entry) => {
      const option = new Option(`${entry.words} (${entry.images})`, entry.index);
      option.dataset.words = entry.words;
      return option;
    });
    pick.replaceChildren(...options);
    pick.disabled = series.length < 2;
    const kept = JSON.parse(sessionStorage.getItem(viewKey) || "{}").series;
    if (series.some((entry) => String(entry.index) === kept)) pick.value = kept;
    await openSeries(pick.value);
  } catch (error) {
    say(error.message);
    viewer.dataset.state = "failed";
  }
}

pick.addEventListener("change", () => openSeries(pick.value).catch((error) => say(error.message)));
scroll.addEventListener("input", () => go(Number(scroll.value)));
field("reset").addEventListener("click", reset);
field("invert").addEventListener("click", () => setInverted(!inverted));
window.addEventListener("pagehide", keepView);
new ResizeObserver(redraw).observe(stage);

let wheeled = 0;
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  wheeled += event.deltaMode ? event.deltaY * 40 : event.deltaY;
  const steps = Math.trunc(wheeled / 40);
  if (!steps) return;
  wheeled -= steps * 40;
  go(index + Math.sign(steps) * Math.min(3, Math.abs(steps)));
}, { passive: false });

canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
  if (event.button === 1) event.preventDefault();
});
canvas.addEventListener("pointermove", (event) => {
  if (!values || !event.buttons) return;
  if (event.buttons & 2) {
    zoom = Math.min(12, Math.max(0.5, zoom * Math.exp(-event.movementY / 150)));
    redraw();
  } else if (event.buttons & 4) {
    shift = [shift[0] + event.movementX, shift[1] + event.movementY];
    redraw();
  } else {
    const speed = stack.window_width / 400;
    setWindow(centre + event.movementY * speed, width + event.movementX * speed);
  }
});

const moves = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -Infinity, End: Infinity };
document.addEventListener("keydown", (event) => {
  const busy = event.target.closest("textarea, select, input:not([type=radio])");
  if (busy || event.ctrlKey || event.altKey || event.metaKey) return;
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (event.shiftKey && digit && presets[digit[1] - 1]) {
    setWindow(presets[digit[1] - 1][1], presets[digit[1] - 1][2]);
  } else if (event.key in moves) {
    go(index + moves[event.key]);
  } else if (event.key === "r") {
    reset();
  } else if (event.key === "i") {
    setInverted(!inverted);
  } else {
    return;
  }
  event.preventDefault();
});

open();
