// Cornerstone3D, given our own images: display values as they came, whose window is kept in intensities by the panes.

import {
  Enums,
  RenderingEngine,
  cache,
  getRenderingCapabilities,
  imageLoader,
  init,
  metaData,
  setUseCPURendering,
  utilities,
} from "../vendor/cornerstone.js";

const planes = new Map(); // "series/plane" -> Plane

function asked(imageId) {
  const [series, number, k] = imageId.replace(/^secondread:/, "").split("/");
  return { plane: planes.get(`${series}/${number}`), k: Number(k) };
}

export function planeOf(imageId) {
  return asked(imageId).plane;
}

export function know(plane) {
  planes.set(`${plane.series.key}/${plane.number}`, plane);
}

export function forget(series) {
  for (const [key, plane] of planes) {
    if (plane.series !== series) continue;
    for (let k = 0; k < plane.depth; k += 1) if (cache.getImageLoadObject(plane.imageId(k))) cache.removeImageLoadObject(plane.imageId(k), { force: true });
    planes.delete(key);
  }
}

function extremes(values) {
  let [lowest, highest] = [values[0], values[0]];
  for (let i = 1; i < values.length; i += 1) {
    if (values[i] < lowest) lowest = values[i];
    else if (values[i] > highest) highest = values[i];
  }
  return [lowest, highest];
}

async function load(imageId) {
  const { plane, k } = asked(imageId);
  const values = await plane.values(k);
  const { width, height } = plane;
  const { wide, tall } = plane.place(k);
  const [lowest, highest] = extremes(values);
  return {
    imageId,
    width,
    height,
    columns: width,
    rows: height,
    columnPixelSpacing: wide,
    rowPixelSpacing: tall,
    minPixelValue: lowest,
    maxPixelValue: highest,
    slope: 1,
    intercept: 0,
    windowCenter: 32768,
    windowWidth: 65536,
    voiLUTFunction: "LINEAR",
    color: false,
    rgba: false,
    invert: false,
    numberOfComponents: 1,
    dataType: "Uint16Array",
    sizeInBytes: values.byteLength,
    photometricInterpretation: "MONOCHROME2",
    getPixelData: () => values,
    voxelManager: utilities.VoxelManager.createImageVoxelManager({ width, height, numberOfComponents: 1, scalarData: values, id: imageId }),
  };
}

function about(kind, imageId) {
  if (!String(imageId).startsWith("secondread:")) return undefined;
  const { plane, k } = asked(imageId);
  if (!plane) return undefined;
  if (kind === "generalSeriesModule") return { modality: "OT", seriesInstanceUID: plane.series.key };
  if (kind === "imagePixelModule") {
    return { bitsAllocated: 16, bitsStored: 16, highBit: 15, pixelRepresentation: 0, samplesPerPixel: 1, photometricInterpretation: "MONOCHROME2" };
  }
  if (kind !== "imagePlaneModule") return undefined;
  const { origin, rows, columns, wide, tall } = plane.place(k);
  return {
    frameOfReferenceUID: `series-${plane.series.key}`,
    rows: plane.height,
    columns: plane.width,
    imageOrientationPatient: [...rows, ...columns],
    rowCosines: rows,
    columnCosines: columns,
    imagePositionPatient: origin,
    pixelSpacing: [tall, wide],
    rowPixelSpacing: tall,
    columnPixelSpacing: wide,
    sliceThickness: null,
    usingDefaultValues: false,
  };
}

// A graphics processor draws where there is a real one; ?rendering=cpu or =gpu decides otherwise.
function wantsProcessor() {
  const asked_for = new URLSearchParams(window.location.search).get("rendering");
  if (asked_for) return asked_for === "cpu";
  const { webgl2, softwareRasterizer } = getRenderingCapabilities();
  return !webgl2 || softwareRasterizer;
}

export function start() {
  init({ rendering: { webGlContextCount: 3 } });
  const plain = wantsProcessor();
  setUseCPURendering(plain);
  imageLoader.registerImageLoader("secondread", (imageId) => ({ promise: load(imageId), cancelFn: undefined }));
  metaData.addProvider(about, 10);
  return { engine: new RenderingEngine("room"), rendering: plain ? "cpu" : "gpu" };
}

export const { Events, ViewportType } = Enums;
