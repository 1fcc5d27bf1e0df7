// The maps of a revealed case: off until asked for, drawn over the images as the network saw them, on its own grid.

const section = document.getElementById("maps");
const part = (name) => document.getElementById(`maps-${name}`);
const canvas = part("canvas");
const COLOURS = { SALIENCY: [255, 180, 84], UNCERTAINTY: [111, 195, 255] };
const STRONGEST = 0.85; // opacity of 255
const NAMES = { "": "nothing", SALIENCY: "sensitivity", UNCERTAINTY: "disagreement" };
const LETTERS = [["R", "L"], ["A", "P"], ["F", "H"]]; // towards lower and higher x, y, z (LPS)

let described = []; // what the server said of each map
let series = 0;
let kind = "";
let index = 0;
const fetched = new Map(); // series and kind -> Uint8Array

const of = (wanted) => described.find((map) => map.series === series && map.kind === wanted);

async function answerTo(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (answer.redirected) throw new Error("Your session has ended. Sign in again.");
  if (!answer.ok) throw new Error("The maps cannot be fetched now.");
  return answer;
}

async function values(wanted) {
  const key = `${series} ${wanted}`;
  if (!fetched.has(key)) {
    const answer = await answerTo(`${section.dataset.url}/${wanted}?series=${series}`);
    fetched.set(key, new Uint8Array(await answer.arrayBuffer()));
  }
  return fetched.get(key);
}

const column = (map, axis) => [0, 1, 2].map((row) => map.affine[row][axis]);
const length = (vector) => Math.hypot(...vector);

function letters(map, axis) {
  const step = column(map, axis);
  const along = step.map(Math.abs).indexOf(Math.max(...step.map(Math.abs)));
  if (Math.abs(step[along]) < 0.8 * length(step)) return ["", ""];
  return step[along] > 0 ? LETTERS[along] : [...LETTERS[along]].reverse();
}

function paint(context, map, shown, over) {
  const [, height, width] = map.shape;
  const from = index * height * width;
  const image = new ImageData(width, height);
  const [red, green, blue] = COLOURS[kind] || [0, 0, 0];
  for (let i = 0; i < height * width; i += 1) {
    const grey = shown[from + i];
    const share = over ? (STRONGEST * over[from + i]) / 255 : 0;
    image.data[4 * i] = grey + (red - grey) * share;
    image.data[4 * i + 1] = grey + (green - grey) * share;
    image.data[4 * i + 2] = grey + (blue - grey) * share;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function place(map) {
  const tall = (map.shape[1] * length(column(map, 1))) / (map.shape[2] * length(column(map, 2)));
  canvas.width = 640;
  canvas.height = Math.max(1, Math.round(640 * tall));
}

function mark(context, map) {
  const [left, right] = letters(map, 2);
  const [top, bottom] = letters(map, 1);
  context.font = "600 26px system-ui, sans-serif";
  context.fillStyle = "#d9c28f";
  context.textBaseline = "middle";
  context.textAlign = "center";
  context.fillText(left, 22, canvas.height / 2);
  context.fillText(right, canvas.width - 22, canvas.height / 2);
  context.fillText(top, canvas.width / 2, 22);
  context.fillText(bottom, canvas.width / 2, canvas.height - 22);
  return [left, right, top, bottom];
}

async function draw() {
  const asked = kind;
  const map = of("INPUT");
  const shown = await values("INPUT");
  const over = asked ? await values(asked) : null;
  if (asked !== kind || map !== of("INPUT")) return; // another drawing is on its way
  const small = document.createElement("canvas");
  [, small.height, small.width] = map.shape;
  paint(small.getContext("2d"), map, shown, over);
  place(map);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const edges = mark(context, map);
  section.dataset.kind = kind;
  part("slice").value = index;
  part("place").textContent = `Slice ${index + 1} of ${map.shape[0]} on the network's grid, over it: ${NAMES[kind]}`;
  const sides = edges.every(Boolean) ? `; left edge ${edges[0]}, top edge ${edges[2]}` : "";
  canvas.setAttribute("aria-label", `Slice ${index + 1} of ${map.shape[0]} as the network saw it, over it: ${NAMES[kind]}${sides}`);
  section.dataset.state = "drawn";
}

const say = (text) => { part("said").textContent = text; };
const redraw = () => draw().catch((error) => say(error.message));

function chooseSeries(number) {
  series = number;
  const [depth] = of("INPUT").shape;
  index = Math.floor(depth / 2);
  part("slice").max = depth - 1;
  redraw();
}

async function show() {
  say("Loading the maps…");
  described = (await (await answerTo(section.dataset.url)).json()).maps;
  const numbers = [...new Set(described.map((map) => map.series))];
  part("series").hidden = numbers.length < 2;
  part("series-pick").replaceChildren(...numbers.map((number) => new Option(`${number + 1}`, number)));
  part("drawn").hidden = false;
  say("");
  chooseSeries(numbers[0]);
}

function toggle() {
  const open = part("show").getAttribute("aria-expanded") !== "true";
  part("show").setAttribute("aria-expanded", String(open));
  part("show").textContent = open ? "Hide the maps" : "Show the maps";
  if (!open) {
    part("drawn").hidden = true;
    return;
  }
  show().catch((error) => say(error.message));
}

// Where a point of the patient (LPS, mm) lies among the slices of the map: the first row of the affine's inverse.
function sliceAt(map, point) {
  const [u, v, w] = [0, 1, 2].map((axis) => column(map, axis));
  const across = [v[1] * w[2] - v[2] * w[1], v[2] * w[0] - v[0] * w[2], v[0] * w[1] - v[1] * w[0]];
  const volume = u[0] * across[0] + u[1] * across[1] + u[2] * across[2];
  const from = point.map((value, row) => value - map.affine[row][3]);
  return Math.round((from[0] * across[0] + from[1] * across[1] + from[2] * across[2]) / volume);
}

document.addEventListener("secondread:slice", (event) => {
  const map = of("INPUT");
  const focus = event.detail && event.detail.focus;
  if (!map || part("drawn").hidden || !Array.isArray(focus)) return;
  const found = sliceAt(map, focus);
  if (!Number.isFinite(found) || found === index || found < 0 || found >= map.shape[0]) return;
  index = found;
  redraw();
});
part("show").addEventListener("click", toggle);
part("slice").addEventListener("input", () => { index = Number(part("slice").value); redraw(); });
part("series-pick").addEventListener("change", () => chooseSeries(Number(part("series-pick").value)));
section.addEventListener("change", (event) => {
  if (event.target.name !== "map-kind") return;
  kind = event.target.value;
  redraw();
});
part("drawn").addEventListener("keydown", (event) => event.stopPropagation()); // the page's keys stay out of the panel
