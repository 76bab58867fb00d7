// Read everything, listen to the user, show the first finding.

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
