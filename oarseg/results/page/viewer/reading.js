// Bytes from the page's data.

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
