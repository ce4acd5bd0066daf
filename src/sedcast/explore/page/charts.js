"use strict";
// Axes, bands, steps and contours on canvas; nothing here knows what is drawn.

const BLUE = "#0072b2", ORANGE = "#d55e00", INK = "#1c2126", SOFT = "#5a636c";
const FONT = "12px system-ui, sans-serif";

function surface(canvas, height) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.font = FONT;
  return { ctx, width, height };
}

function niceTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) ticks.push(Number((k * step).toPrecision(10)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) ticks.push(10 ** power);
  const decades = ticks.filter((t) => t >= low && t <= high);
  if (decades.length > 1) return decades;
  return ticks.flatMap((t) => [t, 2 * t, 5 * t]).filter((t) => t >= low && t <= high);
}

function tickText(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    const [mantissa, power] = Number(value.toPrecision(10)).toExponential().replace("+", "").split("e");
    const digits = power.replace("-", "⁻").replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
    return `${mantissa === "1" ? "" : `${mantissa.replace("-", "−")}·`}10${digits}`;
  }
  return String(value).replace("-", "−");
}

// A panel of a picture: box in pixels, ranges in data; returns the maps from data to pixels.
function panel(ctx, box, xRange, yRange, { logX = false, logY = false } = {}) {
  const fx = logX ? Math.log : (v) => v, fy = logY ? Math.log : (v) => v;
  const [x0, x1] = xRange.map(fx), [y0, y1] = yRange.map(fy);
  const px = (v) => box.x + ((fx(v) - x0) / (x1 - x0)) * box.w;
  const py = (v) => box.y + box.h - ((fy(logY ? Math.max(v, yRange[0] * 1e-6) : v) - y0) / (y1 - y0)) * box.h;
  const inverseY = (p) => { const v = y0 + ((box.y + box.h - p) / box.h) * (y1 - y0); return logY ? Math.exp(v) : v; };
  return { ctx, box, xRange, yRange, logX, logY, px, py, inverseY };
}

function inside(p, draw) {
  p.ctx.save();
  p.ctx.beginPath();
  p.ctx.rect(p.box.x, p.box.y, p.box.w, p.box.h);
  p.ctx.clip();
  draw();
  p.ctx.restore();
}

function frame(p, { xLabel = "", yLabel = "", xTicks, yTicks, showX = true, showY = true, labelGap = 46 } = {}) {
  const { ctx, box } = p;
  ctx.strokeStyle = "#8a939b";
  ctx.fillStyle = INK;
  ctx.lineWidth = 1;
  ctx.strokeRect(box.x + 0.5, box.y + 0.5, box.w, box.h);
  const xs = xTicks || niceTicks(...p.xRange, Math.max(2, box.w / 90));
  const ys = yTicks || (p.logY ? logTicks(...p.yRange) : niceTicks(...p.yRange, Math.max(2, box.h / 55)));
  ctx.beginPath();
  for (const x of xs) { ctx.moveTo(p.px(x), box.y + box.h); ctx.lineTo(p.px(x), box.y + box.h - 5); }
  for (const y of ys) { ctx.moveTo(box.x, p.py(y)); ctx.lineTo(box.x + 5, p.py(y)); }
  ctx.stroke();
  if (showX) {
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (const x of xs) ctx.fillText(tickText(x), p.px(x), box.y + box.h + 5);
    [xLabel].flat().forEach((text, k) => ctx.fillText(text, box.x + box.w / 2, box.y + box.h + 21 + 15 * k));
  }
  if (showY) {
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const y of ys) ctx.fillText(tickText(y), box.x - 5, p.py(y));
    ctx.save();
    ctx.translate(box.x - labelGap, box.y + box.h / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.textAlign = "center";
    [yLabel].flat().forEach((text, k) => ctx.fillText(text, 0, 15 * k));
    ctx.restore();
  }
}

function line(p, xs, ys, color, width = 1.5, dash = []) {
  const { ctx } = p;
  ctx.strokeStyle = color;
  ctx.lineWidth = width;
  ctx.setLineDash(dash);
  ctx.beginPath();
  xs.forEach((x, i) => (i ? ctx.lineTo(p.px(x), p.py(ys[i])) : ctx.moveTo(p.px(x), p.py(ys[i]))));
  ctx.stroke();
  ctx.setLineDash([]);
}

function band(p, xs, low, high, color, alpha) {
  const { ctx } = p;
  ctx.globalAlpha = alpha;
  ctx.fillStyle = color;
  ctx.beginPath();
  xs.forEach((x, i) => (i ? ctx.lineTo(p.px(x), p.py(high[i])) : ctx.moveTo(p.px(x), p.py(high[i]))));
  for (let i = xs.length - 1; i >= 0; i -= 1) ctx.lineTo(p.px(xs[i]), p.py(low[i]));
  ctx.fill();
  ctx.globalAlpha = 1;
}

// Bin values as the corners of a step curve.
function steps(edges, values) {
  return [edges.slice(1).flatMap((edge, i) => [edges[i], edge]), values.flatMap((value) => [value, value])];
}

// The polygon of each cell above a level, and the level's line: marching squares with a border of zeros.
function contour(p, pair, limits, level, { fill, stroke, dash = [], width = 1.4 }) {
  const n = Math.sqrt(pair.density.length), { ctx } = p;
  const [xl, xh] = limits[pair.x], [yl, yh] = limits[pair.y];
  const value = (i, j) => (i < 0 || j < 0 || i >= n || j >= n ? 0 : pair.density[j * n + i]);
  const at = (i, j) => [p.px(xl + ((i + 0.5) / n) * (xh - xl)), p.py(yl + ((j + 0.5) / n) * (yh - yl))];
  const area = new Path2D(), edge = new Path2D();
  for (let j = -1; j < n; j += 1) {
    for (let i = -1; i < n; i += 1) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const heights = corners.map(([a, b]) => value(a, b));
      if (heights.every((h) => h < level)) continue;
      const polygon = [], crossings = [];
      for (let k = 0; k < 4; k += 1) {
        const h = heights[k], g = heights[(k + 1) % 4], here = at(...corners[k]);
        if (h >= level) polygon.push(here);
        if (h >= level !== g >= level) {
          const there = at(...corners[(k + 1) % 4]), share = (level - h) / (g - h);
          const crossing = [here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1])];
          polygon.push(crossing);
          crossings.push(crossing);
        }
      }
      polygon.forEach(([x, y], k) => (k ? area.lineTo(x, y) : area.moveTo(x, y)));
      area.closePath();
      for (let k = 0; k + 1 < crossings.length; k += 2) { edge.moveTo(...crossings[k]); edge.lineTo(...crossings[k + 1]); }
    }
  }
  if (fill) {
    ctx.fillStyle = ctx.strokeStyle = fill;
    ctx.lineWidth = 0.8;
    ctx.fill(area);
    ctx.stroke(area);
  }
  ctx.setLineDash(dash);
  ctx.strokeStyle = stroke;
  ctx.lineWidth = width;
  ctx.stroke(edge);
  ctx.setLineDash([]);
}
