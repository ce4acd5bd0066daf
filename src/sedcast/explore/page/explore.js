"use strict";
// The page: its controls, what it asks of the server, and its four pictures.

const $ = (id) => document.getElementById(id);
const SHOWN_NARROW = ["log_mstar", "log_sfr_1gyr", "dust2"];
let setup, answer, mcmc, galaxy, busy = false, again = false, changed = 0, held = {}, polling = 0, sedPanel = null;
// The run whose chains may be shown. None, or another object, from the change on that ends it: late answers about it are dropped.
let run = null;

async function ask(path, body) {
  const reply = await fetch(`api/${path}`, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  const found = await reply.json().catch(() => ({ error: `the server answered ${reply.status}` }));
  if (!reply.ok) throw new Error(found.error || `the server answered ${reply.status}`);
  return found;
}

const quantity = (name) => setup.quantities.find((one) => one.name === name);
const label = (name) => { const { label: text, unit } = quantity(name); return unit ? `${text} [${unit}]` : text; };
const shown = () => [...document.querySelectorAll("#shown input:checked")].map((box) => box.value);

function numberOf(input) {
  if (input.disabled || input.value.trim() === "") return null;
  return Number(input.value);
}

function question() {
  return {
    magnitudes: setup.bands.map((_, i) => numberOf($(`mag-${i}`))),
    errors: setup.bands.map((_, i) => (numberOf($(`mag-${i}`)) === null ? null : numberOf($(`err-${i}`)))),
    zred: numberOf($("zred")),
    shown: shown(),
  };
}

// One question at a time; changes meanwhile are asked together after it.
async function refresh() {
  if (!changed) changed = performance.now();
  if (busy) { again = true; return; }
  busy = true;
  const began = changed;
  changed = 0;
  try {
    answer = await ask("posterior", question());
    complain("");
    draw();
    requestAnimationFrame(() => {
      const total = performance.now() - began;
      const efficiency = answer.efficiency === null ? "" : `; efficiency of the flow's draws ${Math.round(100 * answer.efficiency)}%`;
      $("timing").textContent = `answered and drawn in ${total.toFixed(0)} ms, ${answer.server_ms.toFixed(0)} of them the posterior's${efficiency}`;
      document.body.dataset.answers = Number(document.body.dataset.answers || 0) + 1;
      document.body.dataset.ms = total.toFixed(1);
      document.body.dataset.serverMs = answer.server_ms;
    });
  } catch (error) {
    complain(error.message);
  }
  busy = false;
  if (again) { again = false; refresh(); }
}

function complain(message) {
  $("message").textContent = message;
  $("pictures").classList.toggle("stale", message !== "");
  for (const input of document.querySelectorAll("#controls input[type=number]")) {
    const names = input.dataset.names;
    input.setAttribute("aria-invalid", String(Boolean(message && names && message.startsWith(names))));
  }
}

function endRun() {
  clearTimeout(polling);
  if ($("mcmc").disabled) {
    if (run.number !== null) cancelRun(run.number);
    showMcmc({ status: "cancelled" });
  }
  run = null;
}

function cancelRun(number) {
  ask("mcmc/cancel", { run: number }).catch((error) => complain(error.message));
}

function dropMcmc() {
  endRun();
  if (mcmc) {
    mcmc = null;
    $("mcmc-state").textContent = "The galaxy has changed: the chains of the earlier one are not shown.";
    $("method").value = "flow";
    $("method").options[1].disabled = true;
  }
}

function edited() { dropMcmc(); refresh(); }

// A number and its slider: either moves the other.
function pair(number, slider) {
  slider.addEventListener("input", () => { number.value = slider.value; edited(); });
  number.addEventListener("input", () => { slider.value = number.value; edited(); });
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function buildBands() {
  const heads = make("div", { className: "line band heads", ariaHidden: "true" });
  for (const text of ["band", "brighter – fainter", "mag", "error"]) heads.append(make("span", { textContent: text }));
  $("bands").append(heads);
  setup.bands.forEach((name, i) => {
    const tag = make("label", { htmlFor: `mag-${i}`, textContent: name });
    const slider = make("input", { type: "range", id: `slider-${i}`, step: 0.01, ariaLabel: `magnitude in ${name}, slider` });
    [slider.min, slider.max] = setup.magnitude_range[i].map((m, k) => (k ? m + 0.5 : m - 0.5).toFixed(2));
    const mag = make("input", { type: "number", id: `mag-${i}`, step: 0.01, ariaLabel: `magnitude in ${name}` });
    const error = make("input", { type: "number", id: `err-${i}`, step: 0.005, ariaLabel: `error in ${name}` });
    mag.dataset.names = `magnitude in ${name}`;
    error.dataset.names = `error in ${name}`;
    $("bands").append(make("div", { className: "line band" }, tag, slider, mag, error));
    pair(mag, slider);
    error.addEventListener("input", edited);
  });
  if (setup.optional) $("bands").append(make("p", { textContent: "Leave a magnitude empty where a band is not measured." }));
}

function buildShown() {
  const chosen = window.innerWidth < 600 ? SHOWN_NARROW : setup.shown;
  for (const { name, label: text } of setup.quantities) {
    const box = make("input", { type: "checkbox", value: name, checked: chosen.includes(name) });
    box.addEventListener("change", () => { refresh(); if (mcmc) poll(); });
    $("shown").append(make("label", {}, box, ` ${text}`));
  }
}

async function pick(row) {
  try {
    galaxy = await ask("galaxy", { row });
  } catch (error) {
    complain(error.message);
    return;
  }
  restore();
}

function restore() {
  $("row").value = galaxy.row;
  const fill = (number, slider, value) => {
    number.value = value === null ? "" : value;
    if (slider && value !== null) slider.value = value;
  };
  fill($("zred"), $("zred-slider"), galaxy.zred);
  setup.bands.forEach((_, i) => {
    fill($(`mag-${i}`), $(`slider-${i}`), galaxy.magnitudes[i]);
    fill($(`err-${i}`), null, galaxy.errors[i]);
  });
  $("identity").textContent = `id ${galaxy.id}, of ${setup.n_galaxies.toLocaleString("en")} in ${setup.name}` +
    (galaxy.excluded ? `. It has no posterior: ${galaxy.excluded}` : "");
  held = {};
  dropMcmc();
  $("mcmc-state").textContent = "";
  refresh();
}

// ---- pictures

// Axes that stay while a change is small, so that it is the posterior that moves.
function steady(key, low, high) {
  const old = held[key];
  if (old && low >= old[0] && high <= old[1] && high - low > 0.45 * (old[1] - old[0])) return old;
  const room = old ? 0.12 * (high - low) : 0;
  held[key] = [low - room, high + room];
  return held[key];
}

function steadyLog(key, low, high) {
  return steady(key, Math.log10(low), Math.log10(high)).map((v) => 10 ** v);
}

function draw() {
  drawSed();
  drawHistories();
  drawCorner();
  drawTable();
  const flag = answer.flags;
  $("flags").textContent = flag ? `Flags: ${flag}` : "";
}

function drawSed() {
  const { sed } = answer, canvas = $("sed");
  const { ctx, width, height } = surface(canvas, Math.min(420, Math.max(330, canvas.clientWidth * 0.5)));
  const positive = [...sed.predicted[0], ...sed.predicted[4], ...sed.flux, ...sed.spectrum[2]].filter((v) => v > 0);
  const top = Math.max(...positive), low = Math.max(Math.min(...positive), top * 1e-4);
  const yRange = steadyLog("sed", low / 1.6, top * 1.6);
  const centres = setup.filters.map((one) => one.centre);
  const xRange = [Math.min(...centres) * 0.78, Math.max(...centres) * 1.25];
  const foot = 54, rest = 62, box = { x: 60, y: 8, w: width - 70, h: height - 8 - 42 - foot - rest };
  const p = panel(ctx, box, xRange, yRange, { logX: true, logY: true });
  inside(p, () => {
    band(p, sed.wave, sed.spectrum[0], sed.spectrum[4], BLUE, 0.16);
    band(p, sed.wave, sed.spectrum[1], sed.spectrum[3], BLUE, 0.28);
    line(p, sed.wave, sed.spectrum[2], BLUE, 1);
    if (mcmc) line(p, mcmc.sed.wave, mcmc.sed.spectrum[2], ORANGE, 1.2, [5, 4]);
    centres.forEach((x, i) => {
      const [low95, low68, middle, high68, high95] = sed.predicted.map((row) => row[i]);
      line(p, [x, x], [low95, high95], "#00785a", 2);
      line(p, [x, x], [low68, high68], "#00785a", 6);
      ctx.strokeStyle = "#00785a";
      ctx.fillStyle = "#fff";
      ctx.lineWidth = 1.8;
      ctx.beginPath();
      ctx.rect(p.px(x) - 6, p.py(middle) - 6, 12, 12);
      ctx.fill();
      ctx.stroke();
      if (sed.flux[i] === null) return;
      line(p, [x, x], [Math.max(sed.flux[i] - sed.sigma[i], yRange[0] / 10), sed.flux[i] + sed.sigma[i]], INK, 1.6);
      ctx.fillStyle = INK;
      ctx.beginPath();
      ctx.arc(p.px(x), p.py(sed.flux[i]), 4.5, 0, 7);
      ctx.fill();
    });
  });
  frame(p, { yLabel: box.h > 210 ? "flux density [nanomaggies]" : "flux [nanomaggies]", showX: false, xTicks: waveTicks(xRange, box.w) });
  drawResiduals(ctx, { x: box.x, y: box.y + box.h, w: box.w, h: rest }, xRange, centres);
  const q = panel(ctx, { x: box.x, y: box.y + box.h + rest, w: box.w, h: foot }, xRange, [0, 1.15], { logX: true });
  inside(q, () => setup.filters.forEach((one, i) => {
    band(q, one.wave, one.wave.map(() => 0), one.response, SOFT, 0.25);
    ctx.fillStyle = INK;
    ctx.textAlign = "center";
    ctx.fillText(setup.bands[i], q.px(one.centre), q.py(0.3));
  }));
  frame(q, { xLabel: "observed wavelength [Å]", xTicks: waveTicks(xRange, box.w), yTicks: [], showY: false });
  legend(ctx, box, [["observed", INK, "dot"], ["predicted, 68% and 95%", "#00785a", "square"], ["spectrum", BLUE, "line"],
    ...(mcmc ? [["MCMC, median", ORANGE, "dash"]] : [])]);
  sedPanel = p;
  canvas.setAttribute("aria-label", `Photometry and predicted spectrum: ${setup.bands.map((name, i) => `${name} ${$(`mag-${i}`).value || "not measured"}`).join(", ")}`);
}

function drawResiduals(ctx, box, xRange, centres) {
  const { sed } = answer;
  const rows = sed.predicted.map((row) => row.map((v, i) => (sed.flux[i] === null ? null : (sed.flux[i] - v) / sed.sigma[i])));
  const most = Math.max(3.5, ...rows[2].map((v) => 1.25 * Math.abs(v)), ...[...rows[0], ...rows[4]].map((v) => 1.05 * Math.abs(v)));
  const reach = steady("residual", 0, Math.min(most, 60))[1];
  const p = panel(ctx, box, xRange, [-reach, reach], { logX: true });
  inside(p, () => {
    band(p, xRange, [-1, -1], [1, 1], SOFT, 0.2);
    line(p, xRange, [0, 0], SOFT, 1);
    centres.forEach((x, i) => {
      if (rows[2][i] === null) return;
      line(p, [x, x], [rows[0][i], rows[4][i]], "#00785a", 2);
      line(p, [x, x], [rows[1][i], rows[3][i]], "#00785a", 6);
      ctx.fillStyle = INK;
      ctx.beginPath();
      ctx.arc(p.px(x), p.py(rows[2][i]), 3.5, 0, 7);
      ctx.fill();
    });
  });
  const tick = [2, 5, 10, 20, 50].findLast((t) => t < 0.8 * reach);
  frame(p, { showX: false, xTicks: waveTicks(xRange, box.w), yTicks: [-tick, 0, tick], yLabel: "residual / σ" });
}

function waveTicks(range, width) {
  const all = width < 420 ? [1500, 3000, 5000, 8000, 15000] : [1500, 2000, 3000, 4000, 5000, 6000, 8000, 10000, 15000, 20000];
  return all.filter((t) => t > range[0] && t < range[1]);
}

function legend(ctx, box, entries) {
  ctx.textAlign = "left";
  ctx.textBaseline = "middle";
  const right = box.x + box.w - Math.max(...entries.map(([text]) => ctx.measureText(text).width)) - 10;
  entries.forEach(([text, color, mark], i) => {
    const y = box.y + box.h - 12 - 17 * (entries.length - 1 - i), x = right - 14;
    ctx.strokeStyle = ctx.fillStyle = color;
    ctx.lineWidth = 2;
    ctx.setLineDash(mark === "dash" ? [4, 3] : []);
    ctx.beginPath();
    if (mark === "dot") { ctx.arc(x, y, 4, 0, 7); ctx.fill(); }
    else if (mark === "square") ctx.rect(x - 5, y - 5, 10, 10);
    else { ctx.moveTo(x - 9, y); ctx.lineTo(x + 8, y); }
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.fillStyle = INK;
    ctx.fillText(text, right, y);
  });
}

function drawHistories() {
  const { history } = answer, log = $("log-sfr").checked;
  const [sfh, zh] = [$("sfh"), $("zh")].map((canvas) => ({ canvas, ...surface(canvas, 230) }));
  const xRange = [0, history.edges[history.edges.length - 1]];
  const top = Math.max(...history.sfr[4], ...(mcmc ? mcmc.history.sfr[4] : [])), floor = Math.max(Math.min(...history.sfr[1].filter((v) => v > 0)), top * 1e-4);
  const yRange = log ? steadyLog("sfh-log", floor / 2, top * 1.5) : [0, steady("sfh", 0, 1.08 * Math.max(...history.sfr[3]) + 1e-6)[1]];
  const place = ({ width, height }) => ({ x: 60, y: 8, w: width - 70, h: height - 50 });
  const p = panel(sfh.ctx, place(sfh), xRange, yRange, { logY: log });
  inside(p, () => {
    const rows = history.sfr.map((row) => steps(history.edges, row)), xs = rows[0][0];
    band(p, xs, rows[0][1], rows[4][1], BLUE, 0.16);
    band(p, xs, rows[1][1], rows[3][1], BLUE, 0.28);
    line(p, xs, rows[2][1], BLUE);
    if (mcmc) for (const k of [1, 2, 3]) line(p, ...steps(mcmc.history.edges, mcmc.history.sfr[k]), ORANGE, k === 2 ? 1.6 : 0.9, [5, 4]);
  });
  frame(p, { xLabel: "lookback time [Gyr]", yLabel: "SFR [M☉/yr]" });
  const zRange = steady("zh", Math.min(...history.log_z[0]) - 0.15, Math.max(...history.log_z[4]) + 0.15);
  const q = panel(zh.ctx, place(zh), xRange, zRange);
  inside(q, () => {
    band(q, history.time, history.log_z[0], history.log_z[4], BLUE, 0.16);
    band(q, history.time, history.log_z[1], history.log_z[3], BLUE, 0.28);
    line(q, history.time, history.log_z[2], BLUE);
    if (mcmc) for (const k of [1, 2, 3]) line(q, mcmc.history.time, mcmc.history.log_z[k], ORANGE, k === 2 ? 1.6 : 0.9, [5, 4]);
  });
  frame(q, { xLabel: "lookback time [Gyr]", yLabel: "log Z (mass fraction)" });
  sfh.canvas.setAttribute("aria-label", `Star-formation rate against lookback time; median in the last bin ${history.sfr[2][0]} solar masses a year`);
  zh.canvas.setAttribute("aria-label", `Metallicity against lookback time; median now ${history.log_z[2][0]}`);
}

function drawCorner() {
  const { corner } = answer, names = Object.keys(corner.limits), n = names.length, canvas = $("corner");
  const left = 72, bottom = 56;
  const full = Math.min(canvas.clientWidth, left + 150 * n + 10), cell = (full - left - 10) / Math.max(1, n);
  const { ctx } = surface(canvas, n ? cell * n + bottom + 10 : 10);
  const overlay = mcmc && names.every((name) => mcmc.corner.limits[name]) ? mcmc.corner : null;
  const range = {};
  for (const name of names) {
    const ends = [corner.limits[name], ...(overlay ? [overlay.limits[name]] : [])];
    range[name] = steady(`corner-${name}`, Math.min(...ends.map((e) => e[0])), Math.max(...ends.map((e) => e[1])));
  }
  const ticksOf = (name) => niceTicks(...range[name], Math.max(1, cell / 48)).filter((t) => {
    const share = (t - range[name][0]) / (range[name][1] - range[name][0]);
    return share > 0.08 && share < 0.92;
  });
  names.forEach((yName, j) => names.slice(0, j + 1).forEach((xName, i) => {
    const box = { x: left + i * cell, y: 6 + j * cell, w: cell - 6, h: cell - 6 };
    const last = j === n - 1, ticks = { xTicks: ticksOf(xName), showX: last };
    const words = (name) => [quantity(name).label.split(",")[0], quantity(name).unit && `[${quantity(name).unit}]`].filter(Boolean);
    if (i === j) {
      const curves = [[corner, BLUE, []], ...(overlay ? [[overlay, ORANGE, [5, 4]]] : [])];
      const top = Math.max(...curves.flatMap(([one]) => one.marginals[xName]));
      const p = panel(ctx, box, range[xName], [0, 1.1 * top]);
      inside(p, () => curves.forEach(([one, color, dash]) => {
        const heights = one.marginals[xName], [low, high] = one.limits[xName];
        const xs = heights.map((_, k) => low + ((k + 0.5) / heights.length) * (high - low));
        if (color === BLUE) band(p, xs, heights.map(() => 0), heights, BLUE, 0.22);
        line(p, xs, heights, color, 1.6, dash);
      }));
      frame(p, { ...ticks, yTicks: [], showY: false, xLabel: last ? words(xName) : [] });
      return;
    }
    const p = panel(ctx, box, range[xName], range[yName]);
    inside(p, () => {
      const find = (one) => one.pairs.find((two) => two.x === xName && two.y === yName);
      const own = find(corner), other = overlay && find(overlay);
      contour(p, own, corner.limits, own.levels[1], { fill: "#cfe3ef", stroke: BLUE, width: 1 });
      contour(p, own, corner.limits, own.levels[0], { fill: "#93c1dd", stroke: BLUE, width: 1 });
      if (other) for (const level of other.levels) contour(p, other, overlay.limits, level, { stroke: ORANGE, dash: [5, 4] });
    });
    frame(p, { ...ticks, yTicks: ticksOf(yName), showY: i === 0, xLabel: last ? words(xName) : [], yLabel: i === 0 ? words(yName) : [], labelGap: 58 });
  }));
  if (n > 1) legend(ctx, { x: left + cell, y: 0, w: cell * (n - 1) - 6, h: overlay ? 46 : 28 }, [["flow", BLUE, "line"], ...(overlay ? [["MCMC", ORANGE, "line"]] : [])]);
  canvas.setAttribute("aria-label", `Corner plot of ${names.map((name) => quantity(name).label).join(", ")}; the table below has the numbers`);
}

function interval([low, middle, high]) {
  const spread = Math.max(high - low, 1e-9), digits = Math.max(0, Math.min(5, 1 - Math.floor(Math.log10(spread))));
  const [m, up, down] = [middle, high - middle, middle - low].map((v) => v.toFixed(digits).replace("-", "−"));
  return `${m}  +${up} −${down}`;
}

function drawTable() {
  $("intervals").querySelector(".mcmc").hidden = !mcmc;
  $("intervals").tBodies[0].replaceChildren(...setup.quantities.map(({ name }) => make("tr", {},
    make("th", { scope: "row", textContent: label(name) }),
    make("td", { textContent: interval(answer.intervals[name]) }),
    ...(mcmc ? [make("td", { textContent: interval(mcmc.intervals[name]) })] : []))));
}

// ---- dragging a point of the SED

function nearest(event) {
  const at = $("sed").getBoundingClientRect(), x = event.clientX - at.left, y = event.clientY - at.top;
  let found = -1, best = 24;
  answer.sed.flux.forEach((flux, i) => {
    if (flux === null) return;
    const distance = Math.hypot(sedPanel.px(setup.filters[i].centre) - x, sedPanel.py(flux) - y);
    if (distance < best) [found, best] = [i, distance];
  });
  return found;
}

function buildDragging() {
  const canvas = $("sed");
  let grabbed = -1, from = 0, magnitude = 0, inverse = null;
  const flux = (event) => inverse(event.clientY - canvas.getBoundingClientRect().top);
  canvas.addEventListener("pointerdown", (event) => {
    if (!answer || (grabbed = nearest(event)) < 0) return;
    inverse = sedPanel.inverseY;
    [from, magnitude] = [flux(event), Number($(`mag-${grabbed}`).value)];
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (grabbed < 0) {
      canvas.style.cursor = answer && nearest(event) >= 0 ? "ns-resize" : "";
      return;
    }
    const value = (magnitude - 2.5 * Math.log10(flux(event) / from)).toFixed(3);
    $(`slider-${grabbed}`).value = $(`mag-${grabbed}`).value = value;
    edited();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { grabbed = -1; });
  // A finger on a point drags it; elsewhere it scrolls the page.
  canvas.addEventListener("touchstart", (event) => { if (answer && nearest(event.touches[0]) >= 0) event.preventDefault(); }, { passive: false });
}

// ---- MCMC and downloads

function showMcmc(state) {
  const running = state.status === "running";
  $("mcmc").disabled = running;
  $("cancel").hidden = $("progress").hidden = !running;
  if (running && state.total) { $("progress").max = state.total; $("progress").value = state.done; }
  if (running && !state.total) $("progress").removeAttribute("value");
  $("mcmc-state").textContent = running
    ? (state.total ? `${state.done.toLocaleString("en")} steps, at most ${state.total.toLocaleString("en")}` : "starting")
    : (state.message || (state.status === "cancelled" ? "Cancelled." : ""));
  if (state.posterior) {
    mcmc = state.posterior;
    $("method").options[1].disabled = false;
    draw();
  }
}

async function poll() {
  clearTimeout(polling);
  const mine = run;
  try {
    const state = await ask("mcmc/state", { run: mine.number, shown: shown() });
    if (mine !== run) return;
    showMcmc(state);
    if (state.status === "running") polling = setTimeout(poll, 400);
  } catch (error) {
    if (mine === run) showMcmc({ status: "failed", message: error.message });
  }
}

async function startMcmc() {
  const mine = run = { number: null };
  mcmc = null;
  $("method").options[1].disabled = true;
  showMcmc({ status: "running" });
  try {
    const state = await ask("mcmc/start", question());
    if (mine !== run) { cancelRun(state.run); return; }
    mine.number = state.run;
    showMcmc(state);
    poll();
  } catch (error) {
    if (mine === run) showMcmc({ status: "failed", message: error.message });
  }
}

async function download(format) {
  const method = $("method").value, name = `galaxy-${galaxy.row}-${method}.${format === "csv" ? "csv" : "h5"}`;
  const asked = { ...question(), format, method, run: method === "mcmc" ? run.number : null };
  const reply = await fetch("api/samples", { method: "POST", body: JSON.stringify(asked) });
  if (!reply.ok) { complain((await reply.json()).error); return; }
  const link = make("a", { href: URL.createObjectURL(await reply.blob()), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function begin() {
  setup = await ask("setup");
  $("about").textContent = `posterior ${setup.model}: redshifts ${setup.zred_range[0]} to ${setup.zred_range[1]}, bands ${setup.bands.join(" ")}`;
  $("row").max = setup.n_galaxies - 1;
  [$("zred-slider").min, $("zred-slider").max] = setup.zred_range;
  $("zred").dataset.names = "redshift";
  buildBands();
  buildShown();
  buildDragging();
  pair($("zred"), $("zred-slider"));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("row").addEventListener("change", () => pick(Math.round(Number($("row").value))));
  $("previous").addEventListener("click", () => pick(Math.max(0, galaxy.row - 1)));
  $("next").addEventListener("click", () => pick(Math.min(setup.n_galaxies - 1, galaxy.row + 1)));
  $("random").addEventListener("click", () => pick(Math.floor(Math.random() * setup.n_galaxies)));
  $("reset").addEventListener("click", restore);
  $("log-sfr").addEventListener("change", () => drawHistories());
  $("mcmc").addEventListener("click", startMcmc);
  $("cancel").addEventListener("click", endRun);
  $("csv").addEventListener("click", () => download("csv"));
  $("hdf5").addEventListener("click", () => download("hdf5"));
  window.addEventListener("resize", () => { if (answer) { held = {}; draw(); } });
  await pick(setup.first);
}

begin().catch((error) => complain(error.message));
