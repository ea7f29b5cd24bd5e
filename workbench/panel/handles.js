// The handles of w(p) = sum_m beta_m B_{m,n-1}(p): handle m stands at p = m / (n - 1), at height beta_m.
// `live` follows every move; `value` is set when a handle is let go, or when the keys have rested.

const SVG = "http://www.w3.org/2000/svg";
const PAD = { left: 30, right: 12, top: 22, bottom: 24 };
const LEAST_TOP = 4; // the scale's upper end when every handle is low
const REACH = 26; // pixels from a handle within which a press takes it
const REST = 500; // milliseconds without a key before the value counts

function node(tag, attributes, parent, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function curveAt(beta, p) {
  // de Casteljau: stable for any number of handles.
  const level = beta.slice();
  for (let last = level.length - 1; last > 0; last--)
    for (let i = 0; i < last; i++) level[i] += p * (level[i + 1] - level[i]);
  return level[0];
}

function oneMore(beta) {
  // Degree elevation: one more handle, the same curve.
  const n = beta.length;
  return Array.from({ length: n + 1 }, (_, m) =>
    (m / n) * (m > 0 ? beta[m - 1] : 0) + (1 - m / n) * (m < n ? beta[m] : 0));
}

function oneLess(beta) {
  // The line through the handles, read at fewer places.
  const n = beta.length - 1;
  if (n === 1) return [(beta[0] + beta[1]) / 2];
  return Array.from({ length: n }, (_, m) => {
    const at = (m * n) / (n - 1), i = Math.min(Math.floor(at), n - 1);
    return beta[i] + (at - i) * (beta[i + 1] - beta[i]);
  });
}

const tidy = (value) => Math.round(value * 100) / 100;

function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((m) => m * unit).find((top) => top >= value * 0.999);
}

function scaleOf(beta) {
  // Some room above the highest handle, so that it can be dragged on.
  const high = Math.max(...beta), low = Math.min(...beta);
  return { top: Math.max(LEAST_TOP, roundUp(Math.max(high, 1) * 1.25)), low: low < 0 ? -roundUp(-low * 1.25) : 0 };
}

function render({ model, el }) {
  let beta = Array.from(model.get("value"));
  let scale = scaleOf(beta), held = -1, timer = 0, width = 280;
  const height = model.get("height");

  el.classList.add("wb-handles");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // arrows move handles, not the notebook's cells
  const svg = node("svg", { height, role: "group" });
  svg.setAttribute("aria-label", model.get("label"));
  const back = node("g", {}, svg), polygon = node("polyline", { class: "wb-h-polygon" }, svg);
  const line = node("polyline", { class: "wb-h-curve" }, svg), dots = node("g", {}, svg);
  const note = node("text", { class: "wb-h-note" }, svg);
  const bar = document.createElement("div");
  bar.className = "wb-h-bar";
  const button = (text, title, action) => {
    const made = document.createElement("button");
    Object.assign(made, { textContent: text, title, type: "button" });
    made.setAttribute("aria-label", title);
    made.addEventListener("click", action);
    bar.appendChild(made);
    return made;
  };
  const fewer = button("−", "One handle less", () => resize(oneLess(beta)));
  const count = document.createElement("span");
  bar.appendChild(count);
  const more = button("+", "One handle more; the curve stays as it is", () => resize(oneMore(beta)));
  el.append(svg, bar);

  const place = (m) => (beta.length > 1 ? m / (beta.length - 1) : 0.5);
  const toX = (p) => PAD.left + p * (width - PAD.left - PAD.right);
  const toY = (w) => {
    const share = (w - scale.low) / (scale.top - scale.low);
    return height - PAD.bottom - share * (height - PAD.top - PAD.bottom);
  };
  const fromY = (y) => {
    const share = (height - PAD.bottom - y) / (height - PAD.top - PAD.bottom);
    return scale.low + Math.min(Math.max(share, 0), 1) * (scale.top - scale.low);
  };

  function frame() {
    // What depends on size and scale only.
    svg.setAttribute("width", width);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    back.replaceChildren();
    const ticks = scale.low < 0 ? [scale.low, 0, scale.top] : [0, scale.top / 2, scale.top];
    for (const w of ticks) {
      node("line", { x1: toX(0), x2: toX(1), y1: toY(w), y2: toY(w), class: w === 0 ? "wb-h-zero" : "wb-h-grid" }, back);
      node("text", { x: toX(0) - 5, y: toY(w) + 3.5, class: "wb-h-tick", "text-anchor": "end" }, back, String(tidy(w)));
    }
    for (const p of [0, 0.5, 1])
      node("text", { x: toX(p), y: height - 8, class: "wb-h-tick", "text-anchor": "middle" }, back, String(p));
    node("text", { x: toX(0.75), y: height - 8, class: "wb-h-axis", "text-anchor": "middle" }, back, "p");
    node("text", { x: 2, y: 10, class: "wb-h-axis" }, back, "w(p)");
  }

  function shape() {
    // What moves with the handles.
    polygon.setAttribute("points", beta.map((w, m) => `${toX(place(m))},${toY(w)}`).join(" "));
    const points = Array.from({ length: 81 }, (_, i) => `${toX(i / 80)},${toY(curveAt(beta, i / 80))}`);
    line.setAttribute("points", points.join(" "));
    while (dots.children.length > beta.length) dots.lastChild.remove();
    while (dots.children.length < beta.length) addDot(dots.children.length);
    const off = model.get("disabled");
    el.classList.toggle("wb-h-off", off);
    for (let m = 0; m < beta.length; m++) {
      const dot = dots.children[m];
      dot.setAttribute("cx", toX(place(m)));
      dot.setAttribute("cy", toY(beta[m]));
      dot.setAttribute("tabindex", off ? -1 : 0);
      dot.setAttribute("aria-valuenow", tidy(beta[m]));
      dot.setAttribute("aria-valuemin", scale.low);
      dot.setAttribute("aria-valuemax", scale.top);
      dot.setAttribute("aria-disabled", off);
      dot.setAttribute("aria-label", `${model.get("label")}, handle ${m + 1} of ${beta.length}, at p = ${tidy(place(m))}`);
    }
    count.textContent = beta.length === 1 ? "1 handle" : `${beta.length} handles`;
    fewer.disabled = off || beta.length <= 1;
    more.disabled = off || beta.length >= model.get("most");
    const shown = held >= 0 ? held : Array.from(dots.children).indexOf(document.activeElement);
    note.textContent = "";
    if (shown >= 0 && shown < beta.length) {
      const right = place(shown) > 0.7;
      note.textContent = `p ${tidy(place(shown))}: ${tidy(beta[shown])}`;
      note.setAttribute("x", toX(place(shown)) + (right ? -11 : 11));
      note.setAttribute("y", Math.max(toY(beta[shown]) - 8, 11));
      note.setAttribute("text-anchor", right ? "end" : "start");
    }
  }

  function draw() { frame(); shape(); }

  function move(m, w) {
    beta[m] = tidy(w);
    shape();
    model.set("live", beta.slice());
    model.save_changes(); // the widget manager keeps one message on its way at a time
  }

  function commit() {
    clearTimeout(timer);
    timer = 0;
    model.set({ live: beta.slice(), value: beta.slice() });
    model.save_changes();
    scale = scaleOf(beta);
    draw();
  }

  function resize(changed) { beta = changed; commit(); }

  function addDot(m) {
    const dot = node("circle", { r: 6, class: "wb-h-dot", role: "slider", "aria-orientation": "vertical" }, dots);
    dot.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 1 : 0.1;
      const moves = { ArrowUp: far, ArrowRight: far, ArrowDown: -far, ArrowLeft: -far, PageUp: 1, PageDown: -1 };
      let w = event.key in moves ? beta[m] + moves[event.key] : null;
      if (event.key === "Home") w = scale.low;
      if (event.key === "End") w = scale.top;
      if (w === null || model.get("disabled")) return;
      event.preventDefault();
      event.stopPropagation();
      if (w > scale.top) { scale.top = roundUp(w * 1.25); frame(); }
      move(m, Math.max(w, scale.low));
      clearTimeout(timer);
      timer = setTimeout(commit, REST);
    });
    dot.addEventListener("focus", shape);
    dot.addEventListener("blur", () => { if (timer) commit(); else shape(); });
  }

  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener("pointerdown", (event) => {
    if (model.get("disabled") || event.button !== 0) return;
    const [x, y] = at(event);
    const far = beta.map((w, m) => Math.hypot(toX(place(m)) - x, toY(w) - y));
    const nearest = far.indexOf(Math.min(...far));
    if (far[nearest] > REACH) return;
    event.preventDefault();
    held = nearest;
    svg.setPointerCapture(event.pointerId);
    dots.children[held].focus({ preventScroll: true });
    el.classList.add("wb-h-held");
    shape();
  });
  svg.addEventListener("pointermove", (event) => {
    if (held >= 0) move(held, fromY(at(event)[1]));
  });
  const release = () => {
    if (held < 0) return;
    held = -1;
    el.classList.remove("wb-h-held");
    commit();
  };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);

  const taken = () => {
    if (held >= 0 || timer) return; // the hand on the handle knows better
    beta = Array.from(model.get("value"));
    scale = scaleOf(beta);
    draw();
  };
  model.on("change:value", taken);
  model.on("change:disabled", shape);
  const watch = new ResizeObserver(() => {
    if (el.clientWidth > 40 && el.clientWidth !== width) { width = el.clientWidth; draw(); }
  });
  watch.observe(el);
  draw();
  return () => { watch.disconnect(); clearTimeout(timer); model.off("change:value", taken); };
}

export default { render };
