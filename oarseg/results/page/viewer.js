"use strict";
// Three linked planes of one case. Indices count voxels of the whole image, axes (z, y, x) run up,
// to the back and to the left; a voxel's centre has the whole number.
(() => {
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

  // -- reading ------------------------------------------------------------------------------

  async function inflate(id, length) {
    const text = atob(element(id).textContent);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    if (bytes.length !== length) throw new Error(`${id}: ${bytes.length} bytes, not ${length}`);
    return bytes;
  }

  function addNeighbours(bytes, width) {
    for (let row = 0; row < bytes.length; row += width)
      for (let i = row + 1; i < row + width; i++) bytes[i] = (bytes[i] + bytes[i - 1]) & 255;
    return bytes;
  }

  const product = (shape) => shape[0] * shape[1] * shape[2];

  async function read() {
    for (const [index, layer] of data.layers.entries()) {
      const bytes = await inflate(`layer${index}`, product(layer.shape));
      layers.push({ ...layer, bytes: addNeighbours(bytes, layer.shape[2]), greys: null });
    }
    codes = await inflate("codes", product(data.codes.shape));
    members = data.organs.map((organ) => {
      const table = new Uint8Array(256);
      for (const code of organ.codes) table[code] = 1;
      return table;
    });
    rows.forEach((row, index) => {
      row.querySelector("button").disabled = data.organs[index].at === null;
    });
  }

  // -- grey values --------------------------------------------------------------------------

  function greysOf(layer) {
    if (layer.greys) return layer.greys;
    let low = layer.levels[0];
    let high = layer.levels[layer.levels.length - 1] / state.brightness;
    if (layer.ct) {
      low = state.window[0] - state.window[1] / 2;
      high = state.window[0] + state.window[1] / 2;
    }
    layer.greys = Uint8ClampedArray.from(
      { length: 256 },
      (_, level) => (255 * ((layer.levels[level] ?? high) - low)) / (high - low),
    );
    return layer.greys;
  }

  const forgetGreys = () => layers.forEach((layer) => (layer.greys = null));

  // Index of a shrunk voxel along an axis, and back to where its block begins and ends.
  const factorOf = (axis) => (axis === 0 ? 1 : data.view.factor);
  const shrunk = (axis, index) => Math.floor((index - data.view.start[axis]) / factorOf(axis));

  function sliceOf(layer, plane, index) {
    const [, height, width] = layer.shape;
    const strides = [height * width, width, 1];
    const columns = layer.shape[plane.across];
    const lines = layer.shape[plane.down];
    const place = shrunk(plane.axis, index);
    if (place < 0 || place >= layer.shape[plane.axis]) return null;
    const greys = greysOf(layer);
    const picture = new ImageData(columns, lines);
    const pixels = new Uint32Array(picture.data.buffer);
    let from = place * strides[plane.axis];
    for (let line = 0; line < lines; line++, from += strides[plane.down]) {
      const to = (plane.up ? lines - 1 - line : line) * columns;
      for (let column = 0, i = from; column < columns; column++, i += strides[plane.across])
        pixels[to + column] = 0xff000000 | (greys[layer.bytes[i]] * 0x010101);
    }
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = lines;
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return canvas;
  }

  // -- contours -----------------------------------------------------------------------------

  // The edges between voxels inside and outside an organ, in indices; each straight one is a line.
  function outline(organ, plane, index) {
    const box = data.organs[organ].box;
    if (!box || index < box[plane.axis][0] || index >= box[plane.axis][1]) return null;
    const [left, right] = box[plane.across];
    const [top, bottom] = box[plane.down];
    const [, height, width] = data.codes.shape;
    const strides = [height * width, width, 1];
    const inside = members[organ];
    const columns = right - left + 2;
    const lines = bottom - top + 2;
    const mask = new Uint8Array(columns * lines);
    const at = [0, 0, 0];
    at[plane.axis] = index;
    for (let line = top; line < bottom; line++) {
      at[plane.down] = line;
      at[plane.across] = left;
      let from = 0;
      for (let axis = 0; axis < 3; axis++) from += (at[axis] - data.codes.start[axis]) * strides[axis];
      const to = (line - top + 1) * columns + 1;
      for (let i = 0; i < right - left; i++) mask[to + i] = inside[codes[from + i * strides[plane.across]]];
    }
    const path = new Path2D();
    trace(path, mask, lines, columns, columns, 1, (v, from, to) => {
      path.moveTo(left - 1.5 + from, top - 1.5 + v);
      path.lineTo(left - 1.5 + to, top - 1.5 + v);
    });
    trace(path, mask, columns, lines, 1, columns, (v, from, to) => {
      path.moveTo(left - 1.5 + v, top - 1.5 + from);
      path.lineTo(left - 1.5 + v, top - 1.5 + to);
    });
    return path;
  }

  function trace(path, mask, lines, length, stride, step, draw) {
    for (let v = 1; v < lines; v++) {
      let from = -1;
      for (let u = 0; u <= length; u++) {
        const here = v * stride + u * step;
        const edge = u < length && mask[here] !== mask[here - stride];
        if (edge && from < 0) from = u;
        if (!edge && from >= 0) {
          draw(v, from, u);
          from = -1;
        }
      }
    }
  }

  // -- drawing ------------------------------------------------------------------------------

  const middleOf = ([low, high]) => (low + high - 1) / 2;
  const sides = (axis) => [data.view.start[axis], data.view.stop[axis]];
  const lengthOf = ([low, high], axis) => (high - low) * data.spacing[axis];

  // Of all organs, or of some.
  function boxAround(organs) {
    const boxes = organs.map((organ) => data.organs[organ].box).filter((box) => box);
    if (!boxes.length) return [0, 1, 2].map(sides);
    return [0, 1, 2].map((axis) => [
      Math.min(...boxes.map((box) => box[axis][0])),
      Math.max(...boxes.map((box) => box[axis][1])),
    ]);
  }

  // From indices to pixels of a canvas: x = a·across + e, y = d·down + f.
  function frameOf(plane, width, height) {
    const spans = [plane.across, plane.down].map((axis) => lengthOf(sides(axis), axis));
    const scale = Math.min(width / spans[0], height / spans[1]) * state.zoom;
    const middle = (axis) => 
      state.zoom > 1 ? state.centres[PLANES.indexOf(plane)][axis] : middleOf(sides(axis));
    return frameAt(plane, width, height, scale, middle);
  }

  function frameAt(plane, width, height, scale, middle) {
    const a = data.spacing[plane.across] * scale;
    const d = data.spacing[plane.down] * scale * (plane.up ? -1 : 1);
    return {
      scale,
      a,
      d,
      e: width / 2 - a * middle(plane.across),
      f: height / 2 - d * middle(plane.down),
    };
  }

  function drawLayer(context, layer, plane, index, frame) {
    const picture = sliceOf(layer, plane, index);
    if (!picture) return;
    const begin = (axis) => data.view.start[axis] - 0.5;
    const end = (axis) => begin(axis) + layer.shape[axis] * factorOf(axis);
    const x = [begin(plane.across), end(plane.across)].map((u) => frame.a * u + frame.e);
    const y = [begin(plane.down), end(plane.down)].map((v) => frame.d * v + frame.f);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, x[0], Math.min(...y), x[1] - x[0], Math.abs(y[1] - y[0]));
  }

  function checkers(frame, width, height) {
    const path = new Path2D();
    const side = CHECKER_MM * frame.scale;
    for (let row = 0; row * side < height; row++)
      for (let column = row % 2; column * side < width; column += 2)
        path.rect(column * side, row * side, side, side);
    return path;
  }

  function drawImages(context, plane, index, frame, width, height) {
    const [first, second] = layers;
    if (state.mode === "1") {
      drawLayer(context, second, plane, index, frame);
      return;
    }
    drawLayer(context, first, plane, index, frame);
    if (state.mode === "0") return;
    context.save();
    if (state.mode === "blend") context.globalAlpha = state.blend;
    else context.clip(checkers(frame, width, height));
    drawLayer(context, second, plane, index, frame);
    context.restore();
  }

  function drawContours(context, plane, index, frame, ratio) {
    const matrix = new DOMMatrix([frame.a, 0, 0, frame.d, frame.e, frame.f]);
    context.lineWidth = 1.4 * ratio;
    context.lineJoin = "round";
    data.organs.forEach((organ, number) => {
      const path = state.shown[number] && outline(number, plane, index);
      if (!path) return;
      const moved = new Path2D();
      moved.addPath(path, matrix);
      context.strokeStyle = `rgb(${organ.colour.join(",")})`;
      context.stroke(moved);
    });
  }

  function text(context, words, x, y, align, ratio) {
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.textAlign = align;
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "rgba(0,0,0,0.75)";
    context.fillStyle = "#e8e6df";
    context.strokeText(words, x, y);
    context.fillText(words, x, y);
  }

  function drawLetters(context, plane, width, height, ratio) {
    const [left, right] = data.letters[plane.across];
    const ends = data.letters[plane.down];
    const [top, bottom] = plane.up ? [ends[1], ends[0]] : ends;
    const margin = 8 * ratio;
    context.textBaseline = "middle";
    text(context, left, margin, height / 2, "left", ratio);
    text(context, right, width - margin, height / 2, "right", ratio);
    context.textBaseline = "top";
    text(context, top, width / 2, margin, "center", ratio);
    context.textBaseline = "bottom";
    text(context, bottom, width / 2, height - margin, "center", ratio);
  }

  function drawScaleBar(context, frame, height, ratio) {
    const margin = 10 * ratio;
    context.fillStyle = "#e8e6df";
    context.fillRect(margin, height - margin - 2 * ratio, SCALE_BAR_MM * frame.scale, 2 * ratio);
    context.textBaseline = "bottom";
    text(context, `${SCALE_BAR_MM} mm`, margin, height - margin - 4 * ratio, "left", ratio);
  }

  function drawLines(context, plane, frame, width, height, ratio) {
    const x = frame.a * state.at[plane.across] + frame.e;
    const y = frame.d * state.at[plane.down] + frame.f;
    const gap = 10 * ratio;
    context.strokeStyle = "rgba(140,190,230,0.75)";
    context.lineWidth = ratio;
    context.beginPath();
    for (const [from, to] of [[0, x - gap], [x + gap, width]]) {
      context.moveTo(from, y);
      context.lineTo(to, y);
    }
    for (const [from, to] of [[0, y - gap], [y + gap, height]]) {
      context.moveTo(x, from);
      context.lineTo(x, to);
    }
    context.stroke();
  }

  function draw(number) {
    const canvas = canvases[number];
    const plane = PLANES[number];
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext("2d");
    const index = state.at[plane.axis];
    keepInSight(plane, width, height);
    const frame = frameOf(plane, width, height);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    drawImages(context, plane, index, frame, width, height);
    if (state.contours) drawContours(context, plane, index, frame, ratio);
    if (state.lines) drawLines(context, plane, frame, width, height, ratio);
    drawLetters(context, plane, width, height, ratio);
    drawScaleBar(context, frame, height, ratio);
    if (data.oblique >= 1) {
      context.textBaseline = "top";
      text(context, `oblique ${data.oblique}°`, width - 8 * ratio, 8 * ratio, "right", ratio);
    }
    const words = `${index + 1} of ${data.shape[plane.axis]}`;
    sliders[number].value = index;
    numbers[number].textContent = words;
    canvas.setAttribute("aria-label", `${plane.name} slice ${words}. ${organsHere().join(", ")}`);
  }

  // A picture that is larger than its canvas moves only where the lines would leave it.
  function keepInSight(plane, width, height) {
    if (state.zoom === 1) return;
    const frame = frameOf(plane, width, height);
    const x = (frame.a * state.at[plane.across] + frame.e) / width;
    const y = (frame.d * state.at[plane.down] + frame.f) / height;
    const centre = state.centres[PLANES.indexOf(plane)];
    if (x < 0.03 || x > 0.97) centre[plane.across] = state.at[plane.across];
    if (y < 0.03 || y > 0.97) centre[plane.down] = state.at[plane.down];
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      canvases.forEach((_, number) => draw(number));
      describe();
    });
  }

  // -- words --------------------------------------------------------------------------------

  function organsHere() {
    const inBox = state.at.map((index, axis) => index - data.codes.start[axis]);
    const [depth, height, width] = data.codes.shape;
    const [z, y, x] = inBox;
    if (z < 0 || y < 0 || x < 0 || z >= depth || y >= height || x >= width) return [];
    const code = codes[(z * height + y) * width + x];
    return data.organs.filter((_, organ) => members[organ][code]).map((organ) => organ.name);
  }

  function valueHere(layer) {
    const [z, y, x] = state.at.map((index, axis) => shrunk(axis, index));
    const [depth, height, width] = layer.shape;
    if (z < 0 || y < 0 || x < 0 || z >= depth || y >= height || x >= width) return null;
    return layer.levels[layer.bytes[(z * height + y) * width + x]];
  }

  function describe() {
    const { linear, origin } = data.toWorld;
    const world = origin.map((from, axis) =>
      linear[axis].reduce((sum, step, k) => sum + step * state.at[k], from),
    );
    const sides = [["L", "R"], ["P", "A"], ["S", "I"]];
    const where = world
      .map((mm, axis) => `${sides[axis][mm < 0 ? 1 : 0]} ${Math.abs(mm).toFixed(1)}`)
      .join("  ");
    const values = layers.map((layer) => {
      const value = valueHere(layer);
      if (value === null) return `${layer.name} –`;
      return layer.ct ? `${layer.name} ${value.toFixed(0)} HU` : `${layer.name} ${value.toFixed(2)}`;
    });
    const organs = organsHere().join(", ") || "no organ";
    status.textContent = `${where} mm   ${values.join("   ")}   ${organs}`;
  }

  // -- what the user does -------------------------------------------------------------------

  function move(axis, index) {
    state.at[axis] = Math.min(data.shape[axis] - 1, Math.max(0, Math.round(index)));
    redraw();
  }

  function centreOn(at) {
    state.centres = PLANES.map(() => [...at]);
  }

  function jump(organ) {
    const at = data.organs[organ].at;
    if (!at) return;
    state.at = [...at];
    centreOn(at);
    rows.forEach((row, index) => row.classList.toggle("current", index === organ));
    redraw();
  }

  function zoom(factor) {
    state.zoom = factor === 0 ? 1 : Math.min(MOST_ZOOM, Math.max(1, state.zoom * factor));
    centreOn(state.at);
    redraw();
  }

  function follow(number, event) {
    const canvas = canvases[number];
    const plane = PLANES[number];
    const ratio = canvas.width / canvas.clientWidth;
    const frame = follow.frame;
    move(plane.across, (event.offsetX * ratio - frame.e) / frame.a);
    move(plane.down, (event.offsetY * ratio - frame.f) / frame.d);
  }

  function bindCanvas(canvas, number) {
    const plane = PLANES[number];
    let turned = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      // While the pointer is down, the picture stays where it is.
      follow.frame = frameOf(plane, canvas.width, canvas.height);
      follow.held = number;
      follow(number, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons && follow.held === number) follow(number, event);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      turned += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY;
      const whole = Math.trunc(turned);
      turned -= whole;
      // Rolling away goes up, to the front, or to the right.
      if (whole) move(plane.axis, state.at[plane.axis] + (plane.up ? whole : -whole));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
      if (event.key in steps) move(plane.axis, state.at[plane.axis] + steps[event.key]);
      else if (event.key === "Home") move(plane.axis, 0);
      else if (event.key === "End") move(plane.axis, Infinity);
      else return;
      event.preventDefault();
    });
    sliders[number].max = data.shape[plane.axis] - 1;
    sliders[number].addEventListener("input", (event) => move(plane.axis, +event.target.value));
  }

  function setShown(organ, shown) {
    state.shown[organ] = shown;
    rows[organ].querySelector("input").checked = shown;
  }

  function bindTable() {
    rows.forEach((row, organ) => {
      row.querySelector("input").addEventListener("change", (event) => {
        setShown(organ, event.target.checked);
        redraw();
      });
      row.querySelector("button").addEventListener("click", () => jump(organ));
    });
    for (const button of document.querySelectorAll("[data-contours]"))
      button.addEventListener("click", () => {
        const which = button.dataset.contours;
        rows.forEach((row, organ) =>
          setShown(organ, which === "all" || (which === "raised" && row.classList.contains("raised"))),
        );
        redraw();
      });
  }

  // Only what changes the picture that is shown.
  function offerTools() {
    const offer = (id, offered) => {
      if (element(id)) element(id).parentElement.hidden = !offered;
    };
    offer("blend", state.mode === "blend");
    offer("brightness", state.mode !== "0");
  }

  function bindTools() {
    for (const radio of document.querySelectorAll("input[name=mode]"))
      radio.addEventListener("change", () => {
        state.mode = radio.value;
        offerTools();
        redraw();
      });
    offerTools();
    for (const button of document.querySelectorAll("[data-zoom]"))
      button.addEventListener("click", () => zoom(+button.dataset.zoom));
    element("blend")?.addEventListener("input", (event) => {
      state.blend = event.target.value / 100;
      redraw();
    });
    element("brightness")?.addEventListener("input", (event) => {
      state.brightness = event.target.value / 100;
      forgetGreys();
      redraw();
    });
    element("window")?.addEventListener("change", (event) => {
      state.window = event.target.value.split(",").map(Number);
      forgetGreys();
      redraw();
    });
    for (const name of ["contours", "lines"])
      element(name).addEventListener("change", (event) => {
        state[name] = event.target.checked;
        redraw();
      });
  }

  function toggle(name) {
    element(name).checked = state[name] = !state[name];
    redraw();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("select, input[type=range]")) return;
    const select = element("window");
    if (event.key === "c" || event.key === "C") toggle("contours");
    else if (event.key === "x" || event.key === "X") toggle("lines");
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") zoom(0);
    else if (select && event.key >= "1" && event.key <= String(select.options.length)) {
      select.selectedIndex = event.key - 1;
      select.dispatchEvent(new Event("change"));
    }
  }

  // -- on paper -----------------------------------------------------------------------------

  // Nine axial slices through each group of organs.
  function drawSheets() {
    const sheets = element("sheets");
    sheets.replaceChildren();
    for (const group of data.groups) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      for (const organ of group) {
        const name = document.createElement("span");
        name.append(rows[organ].querySelector("svg").cloneNode(true), data.organs[organ].name);
        caption.append(name);
      }
      figure.append(caption, sheetOf(group));
      sheets.append(figure);
    }
  }

  function sheetOf(group) {
    const side = 420;
    const box = boxAround(group);
    const [low, high] = [box[0][0], box[0][1] - 1];
    const spans = [1, 2].map((axis) => lengthOf(box[axis], axis) + 2 * AROUND_MM);
    const scale = side / Math.max(...spans);
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = 3 * side;
    const context = sheet.getContext("2d");
    const saved = state.shown;
    state.shown = saved.map((_, organ) => group.includes(organ));
    for (let number = 0; number < 9; number++) {
      const index = Math.round(high + ((low - high) * number) / 8);
      context.save();
      context.translate((number % 3) * side, Math.floor(number / 3) * side);
      context.beginPath();
      context.rect(0, 0, side, side);
      context.clip();
      context.fillStyle = "#000";
      context.fillRect(0, 0, side, side);
      const frame = frameAt(PLANES[0], side, side, scale, (axis) => middleOf(box[axis]));
      drawLayer(context, layers[0], PLANES[0], index, frame);
      drawContours(context, PLANES[0], index, frame, 1);
      drawLetters(context, PLANES[0], side, side, 1);
      context.textBaseline = "top";
      text(context, `${index + 1}`, side - 8, 8, "right", 1);
      context.restore();
    }
    state.shown = saved;
    return sheet;
  }

  async function start() {
    await read();
    canvases.forEach(bindCanvas);
    bindTable();
    bindTools();
    document.addEventListener("keydown", onKey);
    new ResizeObserver(redraw).observe(document.querySelector(".planes"));
    window.addEventListener("beforeprint", drawSheets);
    window.addEventListener("afterprint", () => element("sheets").replaceChildren());
    const first = data.organs.findIndex((organ, index) => organ.at && rows[index].classList.contains("raised"));
    const any = data.organs.findIndex((organ) => organ.at);
    if (first >= 0 || any >= 0) state.at = [...data.organs[first >= 0 ? first : any].at];
    const box = boxAround([...data.organs.keys()]);
    const ratios = box.map((side, axis) => lengthOf(sides(axis), axis) / (lengthOf(side, axis) + 2 * AROUND_MM));
    state.zoom = Math.max(1, Math.min(...ratios));
    centreOn(box.map(middleOf));
    redraw();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      document.documentElement.dataset.ready = "yes";
    }));
  }

  start().catch((error) => {
    status.textContent = `The images cannot be shown (${error.message}): this page needs a browser of 2023 or later. The numbers are complete.`;
    document.documentElement.dataset.ready = "no";
  });
})();
