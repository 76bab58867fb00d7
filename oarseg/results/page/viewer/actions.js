// What the user does.

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
