"use strict";
// A magnifying glass for the heat maps, and links that open what they point into. All else works without this.
for (const frame of document.querySelectorAll("[data-heat]")) {
  const map = frame.querySelector("svg");
  const { names, values } = JSON.parse(document.getElementById(`${frame.dataset.heat}-data`).textContent);
  const whole = names.length;
  let view = { x: 0, y: 0, size: whole };

  const glass = document.createElement("div");
  glass.className = "glass";
  const said = document.createElement("output");
  said.textContent = "Point at a square, or use the arrow keys, to read its value.";
  const show = () => map.setAttribute("viewBox", `${view.x} ${view.y} ${view.size} ${view.size}`);
  const within = (value) => Math.max(0, Math.min(whole - view.size, value));
  const zoom = (factor, x = view.x + view.size / 2, y = view.y + view.size / 2) => {
    const size = Math.max(Math.min(4, whole), Math.min(whole, view.size * factor));
    const kept = size / view.size;
    view = { x: x - (x - view.x) * kept, y: y - (y - view.y) * kept, size };
    view.x = within(view.x);
    view.y = within(view.y);
    show();
  };
  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    glass.append(made);
  };
  button("+", "Zoom in", () => zoom(0.6));
  button("−", "Zoom out", () => zoom(1 / 0.6));
  button("whole", "Show the whole map", () => zoom(whole));
  glass.append(said);
  frame.parentElement.after(glass);

  const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: 1, height: 1, fill: "none", stroke: "#d55e00", "stroke-width": 0.15 })) {
    mark.setAttribute(name, value);
  }
  let column = 0;
  let row = 0;
  const read = () => {
    const line = whole - 1 - row;
    const value = values[line][column];
    said.textContent = `${names[column]} and ${names[line]}: √G ${value === null ? "unknown" : value}`;
    mark.setAttribute("x", column);
    mark.setAttribute("y", row);
    map.append(mark);
  };
  const place = (event) => {
    const box = map.getBoundingClientRect();
    return [view.x + ((event.clientX - box.left) / box.width) * view.size, view.y + ((event.clientY - box.top) / box.height) * view.size];
  };
  let held = null;
  map.addEventListener("pointerdown", (event) => { held = { at: place(event), id: event.pointerId }; });
  map.addEventListener("pointerup", () => { held = null; });
  map.addEventListener("pointerleave", () => { held = null; });
  map.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (held && view.size < whole && event.buttons) {
      view.x = within(view.x + held.at[0] - x);
      view.y = within(view.y + held.at[1] - y);
      show();
      return;
    }
    column = Math.max(0, Math.min(whole - 1, Math.floor(x)));
    row = Math.max(0, Math.min(whole - 1, Math.floor(y)));
    read();
  });
  map.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // plain scrolling stays scrolling
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, ...place(event));
  }, { passive: false });
  map.tabIndex = 0;
  map.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.6 : 1 / 0.6);
    if (!step) return;
    event.preventDefault();
    column = Math.max(0, Math.min(whole - 1, column + step[0]));
    row = Math.max(0, Math.min(whole - 1, row + step[1]));
    if (column < view.x || column >= view.x + view.size) view.x = within(column - view.size / 2);
    if (row < view.y || row >= view.y + view.size) view.y = within(row - view.size / 2);
    show();
    read();
  });
}
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let place = target; place; place = place.parentElement) {
    if (place instanceof HTMLDetailsElement) place.open = true;
  }
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
