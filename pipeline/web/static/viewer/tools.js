// What a pointer or a finger does in a pane: window, scroll, pan, zoom, measure.

import {
  BaseTool,
  BidirectionalTool,
  EllipticalROITool,
  LengthTool,
  PanTool,
  ToolEnums,
  ToolGroupManager,
  ZoomTool,
  addTool,
  annotation,
  eventTarget,
  initTools,
} from "../vendor/cornerstone.js";
import { planeOf } from "./engine.js";
import { Pane } from "./pane.js";

const { MouseBindings } = ToolEnums;
const THROUGH = 8; // pixels of a drag from one image to the next, fewer in long series
const interaction = { supportedInteractionTypes: ["Mouse", "Touch"] };

class WindowTool extends BaseTool {
  static toolName = "Window";

  constructor(own = {}, standing = interaction) {
    super(own, standing);
    this.mouseDragCallback = this.touchDragCallback = ({ detail: { element, deltaPoints: { canvas } } }) => {
      Pane.of.get(element)?.dragWindow(canvas[0], canvas[1]);
    };
  }
}

class ScrollTool extends BaseTool {
  static toolName = "Scroll";

  constructor(own = {}, standing = interaction) {
    super(own, standing);
    this.left = 0;
    this.mouseDragCallback = this.touchDragCallback = ({ detail: { element, deltaPoints } }) => {
      const pane = Pane.of.get(element);
      if (!pane?.plane) return;
      const step = Math.min(THROUGH, Math.max(1, element.clientHeight / pane.plane.depth));
      this.left += deltaPoints.canvas[1] / step;
      const whole = Math.trunc(this.left);
      this.left -= whole;
      if (whole) pane.go(pane.wanted + whole);
    };
  }
}

function seriesOf(targetId) {
  return planeOf(targetId.replace(/^imageId:/, ""))?.series;
}

const told = (number) => (Math.abs(number) >= 100 ? number.toFixed(0) : number.toFixed(1));

function lengthLines({ cachedStats }, targetId) {
  const { length } = cachedStats[targetId] ?? {};
  const series = seriesOf(targetId);
  return series && Number.isFinite(length) ? [`${length.toFixed(1)} ${series.length}`] : [];
}

function crossLines({ cachedStats }, targetId) {
  const { length, width } = cachedStats[targetId] ?? {};
  const series = seriesOf(targetId);
  return series && Number.isFinite(length) ? [`${length.toFixed(1)} × ${width.toFixed(1)} ${series.length}`] : [];
}

// Cornerstone3D measures display values; a mean and a standard deviation follow them into intensities.
function ovalLines({ cachedStats }, targetId) {
  const { area, mean, stdDev } = cachedStats[targetId] ?? {};
  const series = seriesOf(targetId);
  if (!series || !Number.isFinite(mean)) return [];
  const { slope, intercept } = series.about;
  const size = series.length.replace(/^(mm|px)/, "$1²");
  return [`Mean ${told(mean * slope + intercept)}${series.unit}  SD ${told(stdDev * Math.abs(slope))}${series.unit}`, `${told(area)} ${size}`];
}

// One finger takes the first tool here that is bound to it or to the left button.
const NAMES = { scroll: "Scroll", window: "Window", pan: PanTool.toolName, zoom: ZoomTool.toolName, length: LengthTool.toolName, cross: BidirectionalTool.toolName, oval: EllipticalROITool.toolName };
const MEASURES = { length: lengthLines, cross: crossLines, oval: ovalLines };

const OURS = {
  color: "#ffd166",
  colorHighlighted: "#ffe9b0",
  colorSelected: "#9cc9ee",
  colorLocked: "#ffd166",
  lineWidth: "1.5",
  textBoxFontFamily: "system-ui, sans-serif",
  textBoxFontSize: "15px",
  textBoxColor: "#ffd166",
  textBoxColorHighlighted: "#ffe9b0",
  textBoxColorSelected: "#9cc9ee",
  textBoxLinkLineColor: "#ffd166",
  textBoxBackground: "#000000b0",
};

export class Tools {
  constructor(engine, onmeasure) {
    initTools();
    const { ANNOTATION_COMPLETED, ANNOTATION_REMOVED } = ToolEnums.Events;
    for (const event of [ANNOTATION_COMPLETED, ANNOTATION_REMOVED]) eventTarget.addEventListener(event, onmeasure);
    [WindowTool, ScrollTool, PanTool, ZoomTool, LengthTool, BidirectionalTool, EllipticalROITool].forEach(addTool);
    this.engine = engine;
    this.group = ToolGroupManager.createToolGroup("room");
    for (const [name, tool] of Object.entries(NAMES)) {
      const lines = MEASURES[name];
      this.group.addTool(tool, lines ? { getTextLines: lines } : {});
      if (lines) this.group.setToolPassive(tool);
    }
    const styles = annotation.config.style.getDefaultToolStyles();
    annotation.config.style.setDefaultToolStyles({ ...styles, global: { ...styles.global, ...OURS } });
    this.chosen = "window";
    this.bind({ mouse: "window", finger: "scroll" });
  }

  add(pane) {
    this.group.addViewport(pane.id, this.engine.id);
  }

  choose(name) {
    this.group.setToolPassive(NAMES[this.chosen], { removeAllBindings: true });
    this.chosen = name;
    this.bind({ mouse: name, finger: name });
  }

  bind({ mouse, finger }) {
    const all = Object.fromEntries(Object.keys(NAMES).map((name) => [name, []]));
    all[mouse].push({ mouseButton: MouseBindings.Primary });
    all[finger].push({ numTouchPoints: 1 });
    all.pan.push({ mouseButton: MouseBindings.Auxiliary });
    all.zoom.push({ mouseButton: MouseBindings.Secondary }, { numTouchPoints: 2 });
    for (const [name, bindings] of Object.entries(all)) {
      this.group.setToolPassive(NAMES[name], { removeAllBindings: true });
      if (bindings.length) this.group.setToolActive(NAMES[name], { bindings });
      else if (!MEASURES[name]) this.group.setToolEnabled(NAMES[name]);
    }
  }

  get measured() {
    return annotation.state.getAllAnnotations();
  }

  clear(gone = this.measured.map((one) => one.annotationUID)) {
    gone.forEach((uid) => annotation.state.removeAnnotation(uid));
    this.engine.render();
  }

  clearChosen() {
    this.clear([...annotation.selection.getAnnotationsSelected()]);
  }
}
