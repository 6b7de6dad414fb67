"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("canvas");
const svg = canvas.querySelector("svg");
const details = document.getElementById("details");
const search = document.getElementById("search");
const size = { width: svg.width.baseVal.value, height: svg.height.baseVal.value };
const view = { x: 0, y: 0, scale: 1 };

// --- pan and zoom
function place() {
  svg.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  look();
}
function fit() {
  const scale = Math.min(canvas.clientWidth / size.width, canvas.clientHeight / size.height);
  view.scale = Math.min(1.5, scale);
  view.x = (canvas.clientWidth - size.width * view.scale) / 2;
  view.y = (canvas.clientHeight - size.height * view.scale) / 2;
  place();
}
function start() {
  // Readable first: the whole width if that can be read, otherwise the top at a readable size.
  view.scale = Math.min(1, Math.max(canvas.clientWidth / size.width, 0.6));
  view.x = (canvas.clientWidth - size.width * view.scale) / 2;
  view.y = Math.max(0, (canvas.clientHeight - size.height * view.scale) / 2);
  place();
}
function zoom(factor, x, y) {
  const scale = Math.min(4, Math.max(0.05, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  place();
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey || event.metaKey || !event.shiftKey) {
    const bounds = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - bounds.left, event.clientY - bounds.top);
  } else {
    view.x -= event.deltaY;
    place();
  }
}, { passive: false });
let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, moved: false };
});
window.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
  if (!drag.moved && Math.hypot(dx, dy) < 4) return;
  drag = { x: event.clientX, y: event.clientY, moved: true };
  canvas.classList.add("dragging");
  view.x += dx;
  view.y += dy;
  place();
});
window.addEventListener("pointerup", (event) => {
  const clicked = drag && !drag.moved && canvas.contains(event.target);
  drag = null;
  canvas.classList.remove("dragging");
  if (clicked) click(event.target);
});
function middle(factor) {
  zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
}
document.getElementById("in").onclick = () => middle(1.3);
document.getElementById("out").onclick = () => middle(1 / 1.3);
document.getElementById("fit").onclick = fit;
function centre(element) {
  const bounds = canvas.getBoundingClientRect(), box = element.getBoundingClientRect();
  view.x += bounds.left + bounds.width / 2 - (box.left + box.width / 2);
  view.y += bounds.top + bounds.height / 2 - (box.top + Math.min(box.height, bounds.height) / 2);
  place();
}

// --- the whole picture, small, with a frame around what is seen
const overview = document.getElementById("overview");
const frame = shape("rect", { class: "view", rx: 1 });
const blocks = new Map();
function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
function sketch() {
  const room = canvas.clientHeight - 62;
  const scale = Math.min(150 / size.width, room / size.height);
  overview.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  // A narrow picture stays wide enough to be pointed at.
  overview.setAttribute("width", Math.max(24, size.width * scale));
  overview.setAttribute("height", size.height * scale);
  overview.setAttribute("preserveAspectRatio", "none");
  const corner = svg.querySelector("#scene").getCTM();
  const lines = [...svg.querySelectorAll("#scene > path.edge")].map((e) => e.getAttribute("d"));
  const moved = `translate(${corner.e / corner.a} ${corner.f / corner.d})`;
  overview.append(shape("path", { class: "edges", d: lines.join(""), transform: moved }));
  for (const box of data.boxes) {
    const group = document.getElementById(`box${box.number}`);
    if (!group) continue;
    const area = group.querySelector("rect");
    const block = shape("rect", {
      fill: `hsl(${box.hue} 60% 68%)`, width: area.getAttribute("width"),
      height: area.getAttribute("height"), transform: `${moved} ${group.getAttribute("transform")}`,
    });
    blocks.set(String(box.number), block);
    overview.append(block);
  }
  overview.append(frame);
}
function look() {
  frame.setAttribute("x", -view.x / view.scale);
  frame.setAttribute("y", -view.y / view.scale);
  frame.setAttribute("width", canvas.clientWidth / view.scale);
  frame.setAttribute("height", canvas.clientHeight / view.scale);
}
function goTo(event) {
  const bounds = overview.getBoundingClientRect();
  const x = ((event.clientX - bounds.left) / bounds.width) * size.width;
  const y = ((event.clientY - bounds.top) / bounds.height) * size.height;
  view.x = canvas.clientWidth / 2 - x * view.scale;
  view.y = canvas.clientHeight / 2 - y * view.scale;
  place();
}
overview.addEventListener("pointerdown", (event) => {
  event.stopPropagation();
  overview.setPointerCapture(event.pointerId);
  goTo(event);
});
overview.addEventListener("pointermove", (event) => {
  if (event.buttons) goTo(event);
});

// --- details
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, attributes);
  element.append(...children);
  return element;
}
function link(name) {
  return make("button", { className: "link", onclick: () => showOperation(name, true) }, name);
}
const heaviest = Math.max(...data.boxes.map(weight), 1e-30);
function weight(box) {
  return box.seconds || box.bytes;
}
function row(box) {
  const dot = make("i"), bar = make("i", { className: "bar" });
  dot.style.background = bar.style.background = `hsl(${box.hue} 60% 62%)`;
  bar.style.width = `${Math.max(1, (100 * weight(box)) / heaviest)}%`;
  // Names of kernels end with the shape of what they compute.
  const [, name, shape] = box.title.match(/^(.*?)_?((?:\d+x)*\d+)?$/);
  const words = make("span", { className: "words" }, make("span", { className: "title" }, name),
    make("span", { className: "shape" }, (shape || "").replaceAll("x", "×")));
  return make("button", {
    className: "row", title: box.title, onclick: () => showBox(box.number, true),
  }, dot, make("span", { className: "number" }, box.number), make("span", {}, words, bar),
    make("span", { className: "size" }, box.time || box.moves));
}
function showAll() {
  choose(null);
  details.replaceChildren(make("h2", {}, "Kernels ", make("span", {},
    data.boxes.some((b) => b.time) ? "and their times" : "and the bytes they move")),
    ...data.boxes.map(row));
}
function back() {
  return make("button", { className: "back", onclick: showAll }, "← all kernels");
}
function showBox(number, move) {
  const box = data.boxes[number], element = document.getElementById(`box${number}`);
  choose(element, number);
  if (move) centre(element);
  const parts = [back(), make("h2", {}, `${number} · ${box.title}`), 
    box.time ? `${box.time}, ${box.moves} moved` : `${box.moves} moved`];
  if (box.operations.length) {
    parts.push(make("h2", {}, "Stitched operations"), make("div", {}, ...box.operations.map(link)));
  }
  if (box.written.length) {
    parts.push(make("h2", {}, "Writes variables"), make("div", {}, box.written.join(", ")));
  }
  parts.push(make("h2", {}, "As it is compiled"), make("pre", {}, box.text));
  details.replaceChildren(...parts);
}
function elementOf(name) {
  return [...svg.querySelectorAll("[data-name]")].find((e) => e.dataset.name === name);
}
function showOperation(name, move, element) {
  const operation = data.operations[name];
  element = element || elementOf(name);
  if (!operation) return;
  choose(element);
  if (move && element) centre(element);
  const parts = [back(), make("h2", {}, name, make("span", {}, `  ${operation.op}`)),
    operation.types.join(", ")];
  if (operation.box !== undefined) {
    parts.push(make("h2", {}, "Kernel"), row(data.boxes[operation.box]));
  }
  for (const [title, names] of [["Reads", operation.inputs], ["Read by", operation.users]]) {
    if (names.length) parts.push(make("h2", {}, title), make("div", {}, ...names.map(link)));
  }
  parts.push(make("h2", {}, "Text"), make("pre", {}, operation.text));
  if (operation.where) parts.push(make("h2", {}, "Made at"), operation.where);
  details.replaceChildren(...parts);
}
function choose(element, number) {
  for (const e of document.querySelectorAll(".chosen, .near")) e.classList.remove("chosen", "near");
  if (!element) return;
  element.classList.add("chosen");
  const box = number === undefined ? element.closest(".box")?.dataset.box : number;
  const id = box === undefined ? element.id : `box${box}`;
  for (const e of svg.querySelectorAll("path[data-from]")) {
    if (e.dataset.from === id || e.dataset.to === id) e.classList.add("near");
  }
  for (const e of document.querySelectorAll(".piece")) {
    if (e.dataset.box === String(box)) e.classList.add("chosen");
  }
  blocks.get(String(box))?.classList.add("chosen");
}
function click(target) {
  const cell = target.closest("[data-name]"), box = target.closest(".box");
  if (cell) showOperation(cell.dataset.name, false, cell);
  else if (box) showBox(Number(box.dataset.box), false);
  else showAll();
}
for (const piece of document.querySelectorAll(".piece")) {
  piece.onclick = () => showBox(Number(piece.dataset.box), true);
}

// --- search
let hits = [], current = -1;
search.addEventListener("input", () => {
  const words = search.value.trim().toLowerCase();
  for (const e of svg.querySelectorAll(".hit")) e.classList.remove("hit");
  svg.classList.toggle("searching", words !== "");
  hits = words === "" ? [] : [...svg.querySelectorAll("[data-name]")].filter((e) => {
    const box = e.closest(".box");
    const title = box ? data.boxes[box.dataset.box].title : "";
    return `${e.dataset.name} ${e.textContent} ${title}`.toLowerCase().includes(words);
  });
  hits.forEach((e) => e.classList.add("hit"));
  current = -1;
  document.getElementById("count").textContent =
    words === "" ? "" : `${hits.length} found; Enter goes to the next`;
});
search.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && hits.length) {
    current = (current + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
    centre(hits[current]);
    showOperation(hits[current].dataset.name, false, hits[current]);
  } else if (event.key === "Escape") {
    search.value = "";
    search.dispatchEvent(new Event("input"));
    search.blur();
  }
});
window.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
window.addEventListener("resize", look);
sketch();
showAll();
start();
