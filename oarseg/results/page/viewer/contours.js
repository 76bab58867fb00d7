// Contours of the organs.

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
