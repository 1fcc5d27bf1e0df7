// What the viewer uses of Cornerstone3D, and nothing else.
export { Enums, RenderingEngine, cache, eventTarget, imageLoader, init, metaData, setUseCPURendering, utilities } from "@cornerstonejs/core";
export { getRenderingCapabilities } from "@cornerstonejs/core/utilities/renderingCapabilities";
export {
  BaseTool,
  BidirectionalTool,
  EllipticalROITool,
  Enums as ToolEnums,
  LengthTool,
  PanTool,
  StackScrollTool,
  ToolGroupManager,
  ZoomTool,
  addTool,
  annotation,
  init as initTools,
} from "@cornerstonejs/tools";
