// The page of the viewer. study.js says what there is (STUDY). Volumes are scripts that call `loaded`, since a page
// that was opened from the disk may load nothing else.
"use strict";

const byId = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const WINDOWS = {
  "as in the report": STUDY.window_hu, "lung": [-1350, 150], "soft tissue": [-160, 240], "bone": [-200, 1000],
};
const ZOOMS = { "whole": 1, "2 times": 2, "4 times": 4 };
const PLANES = {
  "all three": ["MULTIPLANAR", 2], "axial": ["AXIAL", 2], "coronal": ["CORONAL", 1], "sagittal": ["SAGITTAL", 0],
};
// Colours that colour-blind people tell apart (Okabe and Ito); those of predictions are as in the report's pictures.
const COLOURS = {
  nodules: [240, 228, 66], lungs: [0, 158, 115], body: [204, 121, 167], left: [86, 180, 233], right: [255, 138, 61],
};
const FURTHER = [[230, 159, 0], [0, 114, 178], [213, 94, 0], [150, 150, 150]];
const OPACITY = 0.5; // of masks
const KEPT = 8; // loaded files: the case before and the one after are there at once

const at = { view: 0, case: 0, left: 0, right: 0 };
const hidden = new Set(["lungs", "body"]);
const panes = {};
let anchors = null; // where both crosses were when they were last set, mm: they move together from there
let shows = 0; // of several changes at once only the last is shown

// ------------------------------------------------------------------------------------------------------------- loading

const waiting = new Map();
const files = new Map();

function loaded(file, content) {
  waiting.get(file)(content);
}

function load(file) {
  if (!files.has(file)) {
    files.set(file, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(file, resolve);
      script.onerror = () => {
        files.delete(file);
        reject(new Error(`${file} is not beside this page. Copy the whole folder, or make it again.`));
      };
      script.onload = () => script.remove();
      script.src = file;
      document.head.append(script);
    }));
    if (files.size > KEPT) files.delete(files.keys().next().value);
  }
  return files.get(file);
}

async function image(text, name, options) {
  return niivue.NVImage.loadFromBase64({ base64: text, name: `${name}.nii.gz`, ...options });
}

function colourOf(name, side) {
  return COLOURS[name === "prediction" ? side : name] || FURTHER[name.length % FURTHER.length];
}

async function mask(text, name, side) {
  const [r, g, b] = colourOf(name, side);
  const opacity = hidden.has(name) ? 0 : OPACITY;
  const made = await image(text, name, { colormap: "gray", opacity, cal_min: 0, cal_max: 1 });
  made.setColormapLabel({ R: [0, r], G: [0, g], B: [0, b], A: [0, 255], I: [0, 1], labels: ["", name] });
  made.lungsyn = name;
  return made;
}

// ------------------------------------------------------------------------------------------------------------- showing

const view = () => STUDY.views[at.view];
const shownCase = () => view().cases[at.case];
const choice = (side) => shownCase()[side][at[side]];
const volumeOf = (side) => STUDY.volumes[choice(side).volume];

function tell(error) {
  byId("told").textContent = error ? error.message || String(error) : "";
  byId("told").hidden = !error;
}

function options(select, texts, chosen) {
  select.replaceChildren(...texts.map((text, k) => new Option(text, k, false, k === chosen)));
}

function write() {
  const { name, why } = shownCase();
  options(byId("view"), STUDY.views.map((one) => one.title), at.view);
  options(byId("case"), view().cases.map((one, k) => `${k + 1} of ${view().cases.length}: ${one.name}`), at.case);
  byId("why").textContent = `${name}: ${why}.`;
  for (const side of SIDES) {
    const { words } = choice(side), volume = volumeOf(side);
    options(byId(`choice-${side}`), shownCase()[side].map((one) => one.text), at[side]);
    byId(`choice-${side}`).disabled = shownCase()[side].length < 2;
    byId(`name-${side}`).textContent = `${volume.name} (${volume.what})`;
    byId(`words-${side}`).replaceChildren(...lines(words), ...lines([grain(volume)]));
    byId(`canvas-${side}`).setAttribute("aria-label", `CT of ${volume.name}, ${choice(side).text}; ${volume.what}`);
    byId(`picture-${side}`).alt = `Three planes through the largest nodule of ${volume.name}, ${volume.what}`;
  }
  history.replaceState(null, "", `#${at.view}.${at.case}.${at.left}.${at.right}`);
}

// Of several only the first is open: a rejected case can have many faults.
function lines(words) {
  const made = words.map((word, k) => element(words.length > 1 && k === 0 ? "summary" : "p", word));
  if (made.length < 2) return made;
  const folded = element("details", "");
  folded.append(...made);
  made[0].append(` (and ${made.length - 1} more)`);
  return [folded];
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function grain(volume) {
  return `Voxels of ${volume.spacing_mm} mm${volume.coarser ? ", larger than those of the case" : ""}; `
    + `${(volume.bytes / 1e6).toFixed(1)} MB.`;
}

async function show() {
  const turn = ++shows;
  write();
  if (document.body.classList.contains("still")) {
    for (const side of SIDES) byId(`picture-${side}`).src = volumeOf(side).picture;
    return;
  }
  document.body.dataset.shown = "";
  try {
    const found = await Promise.all(SIDES.map(imagesOf));
    if (turn !== shows) return;
    tell(null);
    SIDES.forEach((side, k) => put(panes[side], found[k]));
    offerMasks();
    start();
    document.body.dataset.shown = `${at.view}.${at.case}.${at.left}.${at.right}`;
    const after = view().cases[at.case + 1];
    if (after) load(STUDY.volumes[after.left[0].volume].file).catch(() => null);
  } catch (error) {
    if (turn === shows) tell(error);
  }
}

async function imagesOf(side) {
  const volume = volumeOf(side), predicted = choice(side).mask;
  const texts = { ...(await load(volume.file)) };
  if (predicted) texts.prediction = (await load(predicted.file))[predicted.key];
  const [low, high] = Object.values(WINDOWS)[byId("window").value];
  const ct = await image(texts.ct, volume.name, { colormap: "gray", cal_min: low, cal_max: high });
  const masks = Object.keys(texts).filter((name) => name !== "ct");
  return [ct, ...(await Promise.all(masks.map((name) => mask(texts[name], name, side))))];
}

function put(nv, images) {
  nv.volumes = [];
  images.forEach((one) => nv.addVolume(one));
}

function offerMasks() {
  const names = [...new Set(SIDES.flatMap((side) => panes[side].volumes.slice(1).map((one) => one.lungsyn)))];
  const fields = names.map((name) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(name);
    box.onchange = () => { box.checked ? hidden.delete(name) : hidden.add(name); paintMasks(); };
    const swatches = (name === "prediction" ? SIDES : [name]).map((of) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${colourOf(of, of)})`;
      return swatch;
    });
    label.append(box, ...swatches, name);
    return label;
  });
  byId("masks").replaceChildren(byId("masks").firstElementChild, ...fields);
}

function paintMasks() {
  for (const side of SIDES) {
    panes[side].volumes.slice(1).forEach((one) => { one.opacity = hidden.has(one.lungsyn) ? 0 : OPACITY; });
    panes[side].updateGLVolume();
  }
}

// -------------------------------------------------------------------------------------------------------- moving about

const whereMm = (nv) => Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3);

function moveTo(side, mm) {
  const nv = panes[side], inside = nv.mm2frac(mm, 0, true).map((part) => Math.min(Math.max(part, 0), 1));
  nv.scene.crosshairPos = inside;
  nv.drawScene();
  read(side);
}

// Around the cross. A volume's middle is at 0 mm, so a whole one needs no shift.
function zoom() {
  const times = Object.values(ZOOMS)[byId("zoom").value];
  for (const nv of Object.values(panes)) {
    nv.scene.pan2Dxyzmm = [...whereMm(nv).map((mm) => (times === 1 ? 0 : -times * mm)), times];
    nv.drawScene();
  }
}

function start() {
  const right = choice("right"), nodules = Object.values(volumeOf("left").nodules);
  const here = right.beside_at || nodules[0] || [0, 0, 0];
  moveTo("left", here);
  moveTo("right", right.at || here);
  anchors = { left: here, right: right.at || here };
  zoom();
  slide();
}

// A cross was moved by hand: the other follows.
function moved(side) {
  const other = SIDES.find((one) => one !== side), now = whereMm(panes[side]);
  read(side);
  slide();
  if (byId("linked").checked && anchors) {
    moveTo(other, now.map((mm, k) => anchors[other][k] + mm - anchors[side][k]));
  }
}

function read(side) {
  const nv = panes[side], voxel = nv.frac2vox(nv.scene.crosshairPos), ct = nv.volumes[0];
  const hu = ct ? Math.round(ct.getValue(...voxel)) : NaN;
  byId(`read-${side}`).textContent = `${whereMm(nv).map((mm) => mm.toFixed(0)).join(", ")} mm: ${hu} HU`;
}

const across = () => Object.values(PLANES)[byId("planes").value][1];

function slide() {
  byId("slice").value = panes.left.scene.crosshairPos[across()];
}

function step(by) {
  const nv = panes.left, voxels = nv.volumes[0].dimsRAS[across() + 1];
  byId("slice").value = Number(byId("slice").value) + by / voxels;
  byId("slice").dispatchEvent(new Event("input"));
}

function nextNodule() {
  const places = Object.values(volumeOf("left").nodules), here = whereMm(panes.left);
  if (!places.length) return;
  const near = places.findIndex((place) => Math.hypot(...place.map((mm, k) => mm - here[k])) < 3);
  moveTo("left", places[(near + 1) % places.length]);
  moved("left");
  zoom();
}

function otherCase(by) {
  const count = view().cases.length;
  at.case = (at.case + by + count) % count;
  const { left, right } = shownCase(); // the same choice again, such as the same arm, where there is one
  at.left = Math.min(at.left, left.length - 1);
  at.right = Math.min(at.right, right.length - 1);
  show();
}

function otherView(number, from = [0]) {
  at.view = number;
  at.case = Math.min(from[0], view().cases.length - 1);
  const begin = shownCase().begin || [0, 0];
  SIDES.forEach((side, k) => { at[side] = Math.min(from[k + 1] ?? begin[k], shownCase()[side].length - 1); });
  show();
}

const KEYS = {
  n: () => otherCase(1), p: () => otherCase(-1), g: nextNodule, ArrowUp: () => step(1), ArrowDown: () => step(-1),
  m: () => {
    const boxes = [...byId("masks").querySelectorAll("input")], on = !boxes.some((box) => box.checked);
    boxes.forEach((box) => { if (box.checked !== on) box.click(); });
  },
};

function listen() {
  byId("view").onchange = (event) => otherView(Number(event.target.value));
  byId("case").onchange = (event) => { at.case = Number(event.target.value); otherCase(0); };
  for (const side of SIDES) {
    byId(`choice-${side}`).onchange = (event) => { at[side] = Number(event.target.value); show(); };
  }
  byId("next").onclick = KEYS.n;
  byId("previous").onclick = KEYS.p;
  document.addEventListener("keydown", (event) => {
    const busy = /^(SELECT|INPUT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (busy || event.ctrlKey || event.altKey || event.metaKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
}

function listenMoving() {
  options(byId("window"), Object.keys(WINDOWS), 0);
  options(byId("planes"), Object.keys(PLANES), 0);
  options(byId("zoom"), Object.keys(ZOOMS), 0);
  byId("zoom").onchange = zoom;
  byId("nodule").onclick = nextNodule;
  byId("linked").onchange = () => { anchors = { left: whereMm(panes.left), right: whereMm(panes.right) }; };
  byId("window").onchange = () => {
    const [low, high] = Object.values(WINDOWS)[byId("window").value];
    for (const side of SIDES) {
      Object.assign(panes[side].volumes[0], { cal_min: low, cal_max: high });
      panes[side].updateGLVolume();
    }
  };
  byId("planes").onchange = () => {
    const [name] = Object.values(PLANES)[byId("planes").value];
    for (const side of SIDES) panes[side].setSliceType(niivue.SLICE_TYPE[name]);
    byId("slice-name").textContent = `Slice, ${Object.keys(PLANES)[Math.max(byId("planes").value, 1)]}`;
    slide();
  };
  byId("slice").oninput = () => {
    const position = Array.from(panes.left.scene.crosshairPos);
    position[across()] = Number(byId("slice").value);
    panes.left.scene.crosshairPos = position;
    panes.left.drawScene();
    moved("left");
  };
}

async function begin() {
  document.title = `${STUDY.study}: viewer`;
  byId("title").textContent = `${STUDY.study}: look at the volumes`;
  byId("step").textContent = STUDY.step_hu;
  byId("bytes").textContent = `All volumes of this page have ${STUDY.megabytes} MB.`;
  listen();
  if (!document.createElement("canvas").getContext("webgl2")) {
    document.body.classList.add("still");
    tell("This browser has no WebGL 2, so volumes cannot be scrolled through. Each has a picture of its largest nodule "
      + "instead. Another browser, or hardware acceleration switched on in this one's settings, shows the volumes.");
    for (const side of SIDES) byId(`picture-${side}`).hidden = false;
  } else {
    listenMoving();
    for (const side of SIDES) {
      panes[side] = new niivue.Niivue({
        isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
        dragAndDropEnabled: false, crosshairColor: [0.34, 0.71, 0.91, 0.8], crosshairWidth: 0.5, crosshairGap: 6,
        loadingText: "", logLevel: "error",
      });
      await panes[side].attachToCanvas(byId(`canvas-${side}`));
      panes[side].setSliceType(niivue.SLICE_TYPE.MULTIPLANAR);
      panes[side].onLocationChange = () => moved(side);
    }
    byId("planes").onchange();
  }
  const [number, ...from] = location.hash.slice(1).split(".").map(Number);
  const known = Number.isInteger(number) && number < STUDY.views.length;
  otherView(known ? number : 0, known && from.every(Number.isInteger) && from.length ? from : [0]);
}

begin().catch(tell);
