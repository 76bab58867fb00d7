// Say where the lines cross.

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
