// Grey values of the layers.

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
