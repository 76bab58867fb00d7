// Three linked planes of one case. Indices count voxels of the whole image, axes (z, y, x) run up,
// to the back and to the left; a voxel's centre has the whole number.
// The files of this folder are joined in one function, in the order that case_page.py gives.
const data = JSON.parse(document.getElementById("data").textContent);
const [DEPTH, HEIGHT, WIDTH] = data.shape;
const CHECKER_MM = 20;
const SCALE_BAR_MM = 50;
const MOST_ZOOM = 8;
// Around the organs, at first and on paper.
const AROUND_MM = 30;
const PLANES = [
  { name: "Axial", axis: 0, across: 2, down: 1, up: false },
  { name: "Coronal", axis: 1, across: 2, down: 0, up: true },
  { name: "Sagittal", axis: 2, across: 1, down: 0, up: true },
];
const canvases = [...document.querySelectorAll("canvas[data-plane]")];
const sliders = [...document.querySelectorAll("input[data-slice]")];
const numbers = [...document.querySelectorAll("output[data-number]")];
const rows = [...document.querySelectorAll("tr[data-organ]")];
const status = document.getElementById("status");
const element = (id) => document.getElementById(id);

const state = {
  at: [0, 1, 2].map((axis) => Math.floor((data.view.start[axis] + data.view.stop[axis] - 1) / 2)),
  zoom: 1,
  // Of each plane's picture, where it is larger than its canvas.
  centres: PLANES.map(() => [0, 0, 0]),
  mode: "0",
  blend: 0.5,
  brightness: 1,
  window: [40, 400],
  contours: true,
  lines: true,
  shown: data.organs.map(() => true),
};
let layers = [];
let codes = null;
let members = [];
