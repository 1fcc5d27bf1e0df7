// One pane: a stack of images in Cornerstone3D's viewport, with what stands in its corners and at its edges.
// What is written there always belongs to the image that is drawn, never to one that is still to come.

import { Events, ViewportType, know, planeOf } from "./engine.js";

const rounded = (number) => (Math.abs(number) >= 100 ? number.toFixed(0) : number.toPrecision(3));
const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

export class Pane {
  static of = new Map(); // element -> Pane

  constructor(root, engine) {
    this.root = root;
    this.id = root.dataset.pane;
    this.element = root.querySelector(".slice");
    this.part = (name) => root.querySelector(`.${name}`);
    this.plane = null;
    this.wanted = 0;
    this.window = { centre: 0, width: 1 };
    this.inverted = false;
    this.onwindow = () => {};
    engine.enableElement({ viewportId: this.id, type: ViewportType.STACK, element: this.element, defaultOptions: { background: [0, 0, 0] } });
    this.viewport = engine.getViewport(this.id);
    for (const event of [Events.IMAGE_RENDERED, Events.CAMERA_MODIFIED]) this.element.addEventListener(event, () => this.label());
    this.part("scroll").addEventListener("input", (event) => this.go(Number(event.target.value)));
    Pane.of.set(this.element, this);
  }

  get drawn() {
    const image = this.plane && this.viewport.getCornerstoneImage();
    return image && planeOf(image.imageId) === this.plane ? Number(image.imageId.split("/").pop()) : -1;
  }

  get camera() {
    return this.viewport.getCamera();
  }

  // Show a plane from one of its images on, with the series' own window or one that is brought along.
  async show(plane, k, { window: brought, inverted = false, flipHorizontal = false, flipVertical = false } = {}) {
    const { window_centre: centre, window_width: width } = plane.series.about;
    this.plane = plane;
    this.window = brought ?? { centre, width };
    this.inverted = inverted;
    know(plane);
    this.wanted = k;
    this.part("scroll").max = plane.depth - 1;
    write(this.part("corner-plane"), plane.name);
    await plane.values(k);
    if (this.plane !== plane) return;
    await this.viewport.setStack(Array.from({ length: plane.depth }, (_, i) => plane.imageId(i)), k);
    if (this.plane !== plane) return;
    this.fit();
    this.takeWindow(this);
    this.setInverted(inverted);
    if (flipHorizontal || flipVertical) this.viewport.setCamera({ flipHorizontal, flipVertical });
    const drawn = new Promise((done) => { this.element.addEventListener(Events.IMAGE_RENDERED, done, { once: true }); });
    this.redraw();
    await drawn;
    if (this.wanted !== k) this.go(this.wanted);
  }

  clear(text) {
    this.plane = null;
    this.say(text);
    for (const name of ["corner-slice", "corner-window", "corner-plane", "corner-series"]) write(this.part(name), "");
    for (const side of ["left", "right", "top-edge", "bottom"]) write(this.part(side), "");
    this.element.classList.add("blank");
  }

  say(text) {
    write(this.part("message"), text);
    this.part("message").hidden = !text;
    if (!text) this.element.classList.remove("blank");
  }

  async go(to) {
    if (!this.plane) return;
    const plane = this.plane;
    this.wanted = Math.min(plane.depth - 1, Math.max(0, to));
    const k = this.wanted;
    this.label();
    try {
      await plane.values(k);
      if (this.plane !== plane || this.wanted !== k) return;
      if (this.drawn !== k) await this.viewport.setImageIdIndex(k);
      this.say("");
    } catch (error) {
      if (this.plane !== plane || error.name === "AbortError") return;
      this.wanted = this.drawn;
      this.label();
      this.say(error.message);
    }
  }

  // Windows are intensities; Cornerstone3D knows display values, which lie on the same line.
  setWindow(centre, width) {
    if (!this.plane) return;
    this.takeWindow({ window: { centre, width: Math.max(width, this.plane.series.about.slope) } });
    this.onwindow(this);
  }

  takeWindow({ window }) {
    const { slope, intercept } = this.plane.series.about;
    this.window = window;
    const low = (window.centre - window.width / 2 - intercept) / slope;
    this.viewport.setProperties({ voiRange: { lower: low, upper: low + window.width / slope } });
    this.redraw();
  }

  dragWindow(right, down) {
    const speed = this.plane ? this.plane.series.about.window_width / 400 : 0;
    this.setWindow(this.window.centre + down * speed, this.window.width + right * speed);
  }

  setInverted(on) {
    this.inverted = on;
    if (!this.plane) return;
    this.viewport.setProperties({ invert: on });
    this.redraw();
  }

  flip(side) {
    if (!this.plane) return;
    const { flipHorizontal = false, flipVertical = false } = this.camera;
    this.viewport.setCamera(side === "horizontal" ? { flipHorizontal: !flipHorizontal } : { flipVertical: !flipVertical });
    this.redraw();
  }

  fit() {
    const { flipHorizontal, flipVertical } = this.camera;
    if (flipHorizontal || flipVertical) this.viewport.setCamera({ flipHorizontal: false, flipVertical: false });
    this.viewport.resetCamera();
    this.least = this.viewport.getZoom();
    this.redraw();
  }

  reset() {
    if (!this.plane) return;
    const { window_centre: centre, window_width: width } = this.plane.series.about;
    this.setWindow(centre, width);
    this.setInverted(false);
    this.fit();
  }

  zoomBy(factor) {
    if (!this.plane) return;
    const zoom = this.viewport.getZoom() * factor;
    this.viewport.setZoom(Math.min(this.least * 20, Math.max(this.least / 2, zoom)));
    this.redraw();
  }

  redraw() {
    this.viewport.render();
    this.label();
  }

  label() {
    const { drawn } = this;
    if (drawn < 0) return;
    const { depth } = this.plane;
    const coming = this.wanted === drawn ? "" : ` · ${this.wanted + 1} is loading`;
    write(this.part("corner-slice"), `Image ${drawn + 1} / ${depth}${coming}`);
    this.part("scroll").value = this.wanted;
    const zoom = this.viewport.getZoom() / (this.least || 1);
    const { centre, width } = this.window;
    const more = `${this.inverted ? "  inverted" : ""}${this.turned()}${Math.abs(zoom - 1) < 0.05 ? "" : `  ×${zoom.toFixed(1)}`}`;
    write(this.part("corner-window"), `W ${rounded(width)}  L ${rounded(centre)}${more}`);
    this.letter();
    this.announce(drawn);
  }

  // Whoever shows something else of the same place follows the images of the case.
  announce(index) {
    if (this.id === "prior" || (this.announced?.plane === this.plane && this.announced.index === index)) return;
    this.announced = { plane: this.plane, index };
    const detail = { plane: this.plane.name, index, focus: this.plane.middle(index) };
    document.dispatchEvent(new CustomEvent("secondread:slice", { detail }));
  }

  turned() {
    const { flipHorizontal, flipVertical } = this.camera;
    return flipHorizontal || flipVertical ? "  flipped" : "";
  }

  letter() {
    const { flipHorizontal, flipVertical } = this.camera;
    let [left, right, top, bottom] = this.plane.edges;
    if (flipHorizontal) [left, right] = [right, left];
    if (flipVertical) [top, bottom] = [bottom, top];
    write(this.part("left"), left);
    write(this.part("right"), right);
    write(this.part("top-edge"), top);
    write(this.part("bottom"), bottom);
  }
}
