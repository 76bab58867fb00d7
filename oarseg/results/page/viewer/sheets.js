// What is printed.

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
