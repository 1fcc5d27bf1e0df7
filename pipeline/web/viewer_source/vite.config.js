import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vite";

// Parts that the viewer never reaches: DICOM and XML readers, display sets, outlines of segmentations, WebGPU, workers.
const UNUSED = /\/node_modules\/(dcmjs|xmlbuilder2|clipper2-ts|@kitware\/vtk\.js\/(IO\/XML|Rendering\/WebGPU)|@cornerstonejs\/core\/dist\/esm\/RenderingEngine\/helpers\/stats)\//;
// Modules of which only this much is needed.
const NARROWED = [
  [/\/tools\/dist\/esm\/utilities\/registerComputeWorker\.js$/, "export function registerComputeWorker() {}"],
  [/\/metadata\/dist\/esm\/index\.js$/, 'export * as Enums from "./enums/index.js"; export * as metaData from "./metaData.js"; export * as utilities from "./utilities/index.js";'],
  [
    /\/metadata\/dist\/esm\/utilities\/index\.js$/,
    `export { default as calibratedPixelSpacingMetadataProvider } from "./calibratedPixelSpacingMetadataProvider.js";
    export { default as imageIdToURI } from "./imageIdToURI.js";
    export { default as isVideoTransferSyntax, videoUIDs } from "./isVideoTransferSyntax.js";
    export { default as splitImageIdsBy4DTags, generateFrameImageId, handleMultiframe4D } from "./splitImageIdsBy4DTags.js";
    export { calculateRadiographicPixelSpacing, getERMF, getPixelSpacingInformation } from "./getPixelSpacingInformation.js";`,
  ],
];
const NOTHING = `const nothing = new Proxy(function () {}, { get: (_, key) => (key === Symbol.toPrimitive ? () => "" : nothing), apply: () => nothing, construct: () => nothing });`;
const STUBS = {
  dcmjs: `${NOTHING} export default nothing; export { nothing as constants, nothing as log };`,
  xmlbuilder2: `${NOTHING} export { nothing as create };`,
  "clipper2-ts": `${NOTHING} export { nothing as Clipper, nothing as ClipType, nothing as FillRule, nothing as PolyTreeD };`,
};

// What the page's security policy refuses: style attributes, and cursors from blob addresses.
const PATCHES = [
  [/drawingSvg\/drawTextBox\.js$/, "textElement.setAttribute('style', combinedStyle);", "textElement.style.cssText = combinedStyle;"],
  [/cursors\/SVGMouseCursor\.js$/, "if (descriptor) {", "if (false) {"],
];

function lean() {
  const patched = new Set();
  return {
    name: "lean",
    enforce: "pre",
    load(id) {
      const narrowed = NARROWED.find(([path]) => path.test(id));
      if (narrowed) return narrowed[1];
      const found = UNUSED.exec(id);
      if (!found) return null;
      return STUBS[found[1]] ?? `${NOTHING} export default nothing; export { nothing as StatsOverlay, nothing as statsOverlay };`;
    },
    transform(code, id) {
      const patch = PATCHES.find(([path]) => path.test(id));
      if (!patch) return null;
      if (!code.includes(patch[1])) throw new Error(`${id} has changed: look at it and mend PATCHES`);
      patched.add(patch[0]);
      return { code: code.replace(patch[1], patch[2]), map: null };
    },
    buildEnd() {
      if (patched.size !== PATCHES.length) throw new Error("a file named in PATCHES was not bundled: look and mend");
    },
  };
}

// Packages that carry no licence file name it in their package.json.
function declared({ name, license, author, contributors }) {
  const holders = (contributors ?? [author]).map((one) => one?.name ?? one).join(", ");
  if (license !== "MIT" || !holders) throw new Error(`${name} names no licence that is known here`);
  return `MIT License\n\nCopyright (c) ${holders}\n\n${readFileSync("mit.txt", "utf8")}`;
}

function licences() {
  const title = ({ name, version, license }) => `${name} ${version} (${license})`;
  return {
    name: "licences",
    generateBundle(_, bundle) {
      const homes = new Set();
      for (const chunk of Object.values(bundle)) {
        for (const [id, module] of Object.entries(chunk.modules ?? {})) {
          const home = /^.*\/node_modules\/(@[^/]+\/)?[^/]+/.exec(id)?.[0];
          if (home && module.renderedLength && !UNUSED.test(id)) homes.add(home);
        }
      }
      const texts = [...homes].sort().map((home) => {
        const about = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
        const file = readdirSync(home).find((name) => /^licen[cs]e/i.test(name));
        const text = file ? readFileSync(join(home, file), "utf8") : declared(about);
        return `${"=".repeat(80)}\n${title(about)}\n${"=".repeat(80)}\n\n${text.trim()}\n`;
      });
      this.emitFile({ type: "asset", fileName: "LICENSES.txt", source: `cornerstone.js holds parts of these packages.\n\n${texts.join("\n")}` });
    },
  };
}

export default defineConfig({
  plugins: [lean(), licences()],
  build: {
    lib: { entry: "entry.js", formats: ["es"], fileName: () => "cornerstone.js" },
    outDir: "../static/vendor",
    emptyOutDir: true,
    target: "es2022",
    minify: true,
  },
});
