// Draw the three planes.

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
