// Draws the charts of a report with uPlot, sorts and filters its tables. All values come from the element #data.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows;
  const MOST = 6; // highlighted at once: as many as there are colours and dashes that can be told apart
  const PAPER = 640; // pixels of a chart on paper, within the margins of A4 and Letter
  const HINT = "Point at a mark, or use the arrow keys, for its numbers.";
  const DASHES = [[], [9, 4], [3, 3], [12, 4, 3, 4], [6, 6], [2, 5]];
  const SHAPES = ["star", "square", "triangle", "diamond", "cross", "circle"];
  const state = { words: [], fate: "" };
  const charts = [];
  const byId = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const shown = (row) => {
    const each = rows[row];
    const text = `${each.name} ${each.backend} ${each.format} ${each.precision} ${each.fate}`.toLowerCase();
    return (!state.fate || each.fate === state.fate) && state.words.every((word) => text.includes(word));
  };
  const seconds = (value) => (value < 9.995e-4 ? `${+(value * 1e6).toPrecision(3)} µs`
    : value < 1 ? `${+(value * 1e3).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`);
  const rate = (value) => (+value.toPrecision(3)).toLocaleString("en");

  // Charts are drawn in powers of ten on linear scales, so that ticks can be chosen at 1, 2 and 5.
  const log = Math.log10;
  const ticks = (low, high, most) => {
    const among = (factors) => {
      const found = [];
      for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
        for (const factor of factors) found.push(power + log(factor));
      }
      return found.filter((value) => value >= low - 1e-9 && value <= high + 1e-9);
    };
    const inside = among([1, 2, 5]);
    const decades = inside.filter((value) => Math.abs(value - Math.round(value)) < 1e-9);
    if (inside.length > most && decades.length > 1) {
      const step = Math.ceil(decades.length / most);
      return decades.filter((_, place) => place % step === 0);
    }
    if (inside.length > 3) return inside;
    const finer = among([1, 1.5, 2, 3, 4, 5, 6, 8]);
    if (finer.length > 2 && finer.length <= most) return finer;
    if (inside.length > 1) return inside;
    const span = 10 ** high - 10 ** low, step = 10 ** Math.floor(log(span / 3));
    const close = [];
    for (let value = Math.ceil(10 ** low / step) * step; value <= 10 ** high; value += step) close.push(log(value));
    return close.filter((_, place) => place % Math.ceil(close.length / most) === 0);
  };
  const padded = (values, share = 0.08) => {
    const low = Math.min(...values), high = Math.max(...values), pad = Math.max((high - low) * share, 0.05);
    return [low - pad, high + pad];
  };

  // The marks of a chart: { row, style, points: [{ x, y, xs, ys, band, text }] }, in powers of ten.
  // A candidate has the same style in all charts: a colour, a dash and a shape, or -1 where there are none left.
  let chosen = [];
  const measured = new Set([...data.planes.flatMap((each) => each.points), ...data.batches, ...data.search].map((each) => each.row));
  const front = new Set(data.planes.flatMap((each) => each.points.filter((point) => point.front).map((point) => point.row)));
  const rank = (row) => (rows[row].fate === "won" ? -2 : rows[row].fate === "original model" ? -1 : front.has(row) ? row : row + rows.length);
  const choose = () => {
    const visible = [...measured].filter(shown).sort((one, other) => rank(one) - rank(other));
    // The first style, a star, is the winner's alone.
    chosen = (visible.some((row) => rows[row].fate === "won") ? visible : [null, ...visible]).slice(0, MOST);
  };
  const styled = (found) => found.filter((each) => shown(each.row))
    .map((each) => ({ ...each, style: chosen.indexOf(each.row) }))
    .sort((one, other) => (one.style < 0 ? -MOST : -one.style) - (other.style < 0 ? -MOST : -other.style));
  const inkOf = (style) => colour(style < 0 ? "other" : `s${style + 1}`);

  function shape(context, kind, x, y, size) {
    context.beginPath();
    if (kind === "circle") context.arc(x, y, size, 0, 2 * Math.PI);
    if (kind === "square") context.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
    if (kind === "triangle") { context.moveTo(x, y - size); context.lineTo(x + size, y + size * 0.8); context.lineTo(x - size, y + size * 0.8); }
    if (kind === "diamond") { context.moveTo(x, y - size * 1.2); context.lineTo(x + size, y); context.lineTo(x, y + size * 1.2); context.lineTo(x - size, y); }
    if (kind === "cross") {
      const a = size * 0.4;
      for (const [dx, dy] of [[-size, -a], [-a, -a], [-a, -size], [a, -size], [a, -a], [size, -a], [size, a], [a, a], [a, size], [-a, size], [-a, a], [-size, a]]) context.lineTo(x + dx, y + dy);
    }
    if (kind === "star") {
      for (let corner = 0; corner < 10; corner++) {
        const far = corner % 2 ? size * 0.55 : size * 1.35, angle = (corner * Math.PI) / 5 - Math.PI / 2;
        context.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
      }
    }
    context.closePath();
    context.fill();
  }

  // Names beside the highlighted points, as far as there is room.
  function names(plot, spec, across, down) {
    const context = plot.ctx, ratio = devicePixelRatio, high = 15 * ratio;
    const taken = spec.flat.map((point) => ({ x: across(point.x) - 6 * ratio, y: down(point.y), wide: 12 * ratio }));
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const each of [...spec.marks].reverse()) {
      if (each.style < 0) continue;
      const text = rows[each.row].name, wide = context.measureText(text).width, [point] = each.points;
      const places = [[10, 0], [-10 * 1 - wide / ratio, 0], [-wide / ratio / 2, -14], [-wide / ratio / 2, 14]];
      for (const [dx, dy] of places) {
        const x = across(point.x) + dx * ratio, y = down(point.y) + dy * ratio - (point.xs && dy === 0 ? 8 * ratio : 0);
        const free = taken.every((other) => x + wide < other.x || other.x + other.wide < x || Math.abs(y - other.y) > high);
        if (x < plot.bbox.left || x + wide > plot.bbox.left + plot.bbox.width || !free) continue;
        context.fillStyle = colour("text");
        context.fillText(text, x, y);
        taken.push({ x, y, wide });
        break;
      }
    }
  }

  function draw(plot, spec) {
    const context = plot.ctx, ratio = devicePixelRatio;
    const across = (value) => plot.valToPos(value, "x", true), down = (value) => plot.valToPos(value, "y", true);
    const { left, top, width, height } = plot.bbox;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    let marks = 0;
    for (const each of spec.marks) {
      if (each.style < 0) continue;
      const band = each.points.filter((point) => point.band);
      if (band.length < 2) continue;
      context.globalAlpha = 0.18;
      context.fillStyle = inkOf(each.style);
      context.beginPath();
      for (const point of band) context.lineTo(across(point.x), down(point.band[1]));
      for (const point of [...band].reverse()) context.lineTo(across(point.x), down(point.band[0]));
      context.closePath();
      context.fill();
    }
    context.globalAlpha = 1;
    const stroke = (ink, points, dash, wide) => {
      context.strokeStyle = ink;
      context.lineWidth = wide * ratio;
      context.setLineDash(dash.map((part) => part * ratio));
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(x, y));
      context.stroke();
      context.setLineDash([]);
    };
    if (spec.front.length > 1) stroke(colour("edge"), spec.front.map((point) => [across(point.x), down(point.y)]), [], 1.5);
    if (spec.limit !== null) {
      stroke(colour("limit"), [[left, down(spec.limit)], [left + width, down(spec.limit)]], [6, 4], 1.5);
      context.fillStyle = colour("limit");
      context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
      context.textAlign = "left";
      context.fillText(spec.limitText, left + 6 * ratio, down(spec.limit) - 5 * ratio);
    }
    for (const each of spec.marks) {
      const ink = inkOf(each.style);
      if (spec.lines) {
        stroke(ink, each.points.map((point) => [across(point.x), down(point.y)]), each.style < 0 ? [] : DASHES[each.style], each.style < 0 ? 1 : 2);
      }
      for (const point of each.points) {
        const x = across(point.x), y = down(point.y);
        if (point.ys) stroke(ink, [[x, down(point.ys[0])], [x, down(point.ys[1])]], [], 1);
        if (point.xs) stroke(ink, [[across(point.xs[0]), y], [across(point.xs[1]), y]], [], 1);
        context.fillStyle = ink;
        if (spec.dots || each.points.length === 1) {
          shape(context, each.style < 0 ? "circle" : SHAPES[each.style], x, y, (each.style < 0 ? 3 : 5.5) * ratio);
        }
        marks += 1;
      }
    }
    if (!spec.lines) names(plot, spec, across, down);
    if (spec.at !== null) {
      const point = spec.flat[spec.at];
      context.strokeStyle = colour("text");
      context.lineWidth = 2 * ratio;
      context.beginPath();
      context.arc(across(point.x), down(point.y), 9 * ratio, 0, 2 * Math.PI);
      context.stroke();
    }
    context.restore();
    spec.host.dataset.marks = marks;
  }

  function legend(spec) {
    const list = byId(`${spec.host.id}-legend`);
    list.replaceChildren();
    const svg = (name, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      return made;
    };
    const item = (text, style) => {
      const entry = document.createElement("li"), sample = svg("svg", { viewBox: "0 0 36 12", "aria-hidden": "true" });
      const size = 11, canvas = document.createElement("canvas");
      if (spec.lines) {
        sample.append(svg("line", { x1: 0, x2: 36, y1: 6, y2: 6, stroke: inkOf(style), "stroke-width": style < 0 ? 1 : 2.5, "stroke-dasharray": style < 0 ? "none" : DASHES[style].join(" ") || "none" }));
        entry.append(sample);
      } else {
        canvas.width = canvas.height = 2 * size;
        canvas.className = "key";
        const context = canvas.getContext("2d");
        context.fillStyle = inkOf(style);
        shape(context, style < 0 ? "circle" : SHAPES[style], size, size, style < 0 ? 4 : 7.5);
        canvas.setAttribute("aria-hidden", "true");
        entry.append(canvas);
      }
      entry.append(text);
      list.append(entry);
    };
    const named = spec.marks.filter((each) => each.style >= 0).sort((one, other) => one.style - other.style);
    for (const each of named) item(rows[each.row].name, each.style);
    const others = spec.marks.length - named.length;
    if (others) item(`${others} more; filter to tell them apart`, -1);
  }

  function axis(side, spec, direction, format) {
    const ends = spec.range[direction];
    return {
      scale: direction, side, label: spec.labels[direction], labelSize: 24, labelFont: "12px system-ui, sans-serif",
      font: "12px system-ui, sans-serif", stroke: () => colour("text"), size: side === 3 ? 62 : 34, gap: 4,
      grid: { stroke: () => colour("line"), width: 1 }, ticks: { stroke: () => colour("line"), size: 4 },
      splits: (plot) => spec.splits[direction](...ends, Math.max(3, Math.floor((side === 3 ? plot.height : plot.width) / (side === 3 ? 40 : 75)))),
      values: (_, splits) => splits.map(format),
    };
  }

  // A chart that is made again whenever the filter, the size or the colours change.
  function chart(id, describe) {
    const host = byId(id), readout = byId(`${id}-readout`);
    if (!host) return;
    let plot = null, spec = null;
    const tell = (place) => {
      spec.at = place;
      readout.classList.toggle("faint", place === null);
      readout.textContent = place === null ? HINT : `${rows[spec.flat[place].row].name}: ${spec.flat[place].text}`;
      plot.redraw(false, false);
    };
    const nearest = (left, top) => {
      let best = null, least = 40;
      spec.flat.forEach((point, place) => {
        const far = Math.hypot(plot.valToPos(point.x, "x") - left, plot.valToPos(point.y, "y") - top);
        if (far < least) [best, least] = [place, far];
      });
      return best;
    };
    const make = () => {
      if (plot) plot.destroy();
      plot = null;
      host.replaceChildren();
      readout.textContent = HINT;
      readout.classList.add("faint");
      host.dataset.marks = 0;
      spec = { front: [], limit: null, limitText: "", lines: false, dots: true, ...describe(), host, at: null };
      spec.flat = spec.marks.flatMap((each) => each.points.map((point) => ({ ...point, row: each.row })))
        .sort((one, other) => one.x - other.x || one.y - other.y);
      legend(spec);
      if (!spec.flat.length) {
        const nothing = document.createElement("p");
        nothing.className = "nothing";
        nothing.textContent = "No candidate with this measurement matches the filter.";
        host.append(nothing);
        readout.textContent = "";
        return;
      }
      const heights = spec.flat.map((point) => point.y);
      if (spec.limit !== null) heights.push(spec.limit);
      // Intervals may reach to a time-out; beyond three times what was measured they leave the chart.
      const least = Math.min(...heights) - log(3), most = Math.max(...heights) + log(3);
      for (const point of spec.flat) {
        for (const end of [...(point.ys || []), ...(point.band || [])]) heights.push(Math.min(Math.max(end, least), most));
      }
      spec.range = { x: spec.xRange || padded(spec.flat.flatMap((point) => [point.x, ...(point.xs || [])])), y: padded(heights) };
      spec.splits = { x: spec.xSplits || ticks, y: ticks };
      const onPaper = "paper" in document.documentElement.dataset;
      const width = onPaper ? PAPER : Math.max(260, Math.min(host.clientWidth, document.documentElement.clientWidth - 20));
      const xs = spec.flat.map((point) => point.x);
      plot = new uPlot({
        width, height: onPaper ? 300 : width < 500 ? 320 : 380, legend: { show: false }, padding: [12, 30, 0, 0],
        cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false, setScale: false } },
        scales: { x: { time: false, range: spec.range.x }, y: { range: spec.range.y } },
        series: [{}, { paths: () => null, points: { show: false } }],
        axes: [axis(2, spec, "x", spec.formats.x), axis(3, spec, "y", spec.formats.y)],
        hooks: {
          draw: [(self) => draw(self, spec)],
          setCursor: [(self) => {
            const { left, top } = self.cursor;
            if (left < 0 || !spec.flat) return;
            const place = nearest(left, top);
            if (place !== null && place !== spec.at) tell(place);
          }],
        },
      }, [xs, spec.flat.map((point) => point.y)], (self, start) => {
        plot = self;
        self.root.setAttribute("aria-hidden", "true"); // the readout and the table say it
        host.append(self.root);
        start();
      });
    };
    host.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!plot || (!step && event.key !== "Escape" && event.key !== "Home" && event.key !== "End")) return;
      event.preventDefault();
      const size = spec.flat.length;
      if (event.key === "Escape") tell(null);
      else if (event.key === "Home") tell(0);
      else if (event.key === "End") tell(size - 1);
      else tell(spec.at === null ? (step > 0 ? 0 : size - 1) : (spec.at + step + size) % size);
    });
    make();
    charts.push(make);
  }

  const range = ([, low, high]) => (low === null || high === null ? null : [log(low), log(high)]);
  for (const plane of data.planes) {
    chart(`plane-${plane.kind}`, () => {
      const all = plane.points.map((each) => ({
        row: each.row, points: [{ x: log(each.x[0]), y: log(each.y[0]), xs: range(each.x), ys: range(each.y), text: each.text + (each.front ? "; on the Pareto front" : "") }],
        front: each.front,
      }));
      // The front is that of all candidates, also of those that the filter hides.
      const front = all.filter((each) => each.front).map((each) => each.points[0]).sort((one, other) => one.x - other.x);
      return {
        marks: styled(all), front,
        limit: plane.limit === null ? null : log(plane.limit), limitText: plane.limit === null ? "" : `SLO ${seconds(plane.limit)}`,
        labels: { x: "rows per second", y: plane.latency },
        formats: { x: (value) => rate(10 ** value), y: (value) => seconds(10 ** value) },
      };
    });
  }
  const measure = byId("batch-measure");
  chart("batch-chart", () => {
    const name = measure.value, format = name === "rate" ? rate : seconds;
    const all = data.batches.map((each) => ({
      row: each.row,
      points: each.rows.map((size, place) => ({ x: log(size), y: log(each[name][place]), text: `batch ${size}: ${seconds(each.p50[place])} median, ${seconds(each.p99[place])} p99, ${rate(each.rate[place])} rows/s` })),
    }));
    const sizes = [...new Set(data.batches.flatMap((each) => each.rows))].sort((one, other) => one - other).map(log);
    return {
      marks: styled(all), lines: true,
      labels: { x: "rows of a call", y: measure.selectedOptions[0].textContent },
      formats: { x: (value) => rate(10 ** value), y: (value) => format(10 ** value) },
      xSplits: (low, high, most) => sizes.filter((_, place) => place % Math.ceil(sizes.length / most) === 0),
    };
  });
  chart("search-chart", () => {
    const numbers = [...new Set(data.search.flatMap((each) => each.rounds))].sort((one, other) => one - other);
    return {
      marks: styled(data.search.map((each) => ({
        row: each.row,
        points: each.rounds.map((number, place) => ({ x: number, y: log(each.times[place]), text: `round ${number}: ${seconds(each.times[place])}; ${rows[each.row].fate}` })),
      }))),
      lines: true, labels: { x: "round", y: "time" },
      xRange: [numbers[0] - 0.5, numbers.at(-1) + 0.5], xSplits: () => numbers,
      formats: { x: String, y: (value) => seconds(10 ** value) },
    };
  });
  const nines = (level) => -log(1 - level);
  for (const [kind, found] of Object.entries(data.distributions)) {
    chart(`distribution-${kind}`, () => ({
      marks: styled(found.map((each) => ({
        row: each.row,
        points: each.levels.map((level, place) => ({
          x: nines(level), y: log(each.times[place]),
          band: each.low[place] === null || each.high[place] === null ? null : [log(each.low[place]), log(each.high[place])],
          text: `p${+(level * 100).toFixed(2)} ${seconds(each.times[place])}` + (each.low[place] === null || each.high[place] === null ? "" : ` (95 %: ${seconds(each.low[place])} to ${seconds(each.high[place])})`) + ` of ${each.samples.toLocaleString("en")}`,
        })),
      }))),
      lines: true, dots: false,
      labels: { x: "percentile", y: "time" },
      xRange: [-0.05, nines(Math.max(0.99, ...found.flatMap((each) => each.levels))) + 0.15],
      xSplits: (low, high, most) => [0.01, 0.5, 0.9, 0.99, 0.999, 0.9999].map(nines).filter((value) => value <= high),
      formats: { x: (value) => `p${+((1 - 10 ** -value) * 100).toFixed(2)}`, y: (value) => seconds(10 ** value) },
    }));
  }
  const again = () => {
    choose();
    charts.forEach((make) => make());
  };

  // Sorting: a click on a heading sorts by it, another one the other way round.
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, place) => {
      const button = heading.querySelector("button");
      button.disabled = false;
      button.addEventListener("click", () => {
        const descending = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const value = (line) => {
          const cell = line.cells[place];
          return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
        };
        const compare = (one, other) => {
          if ((one === "") !== (other === "")) return one === "" ? 1 : -1; // what is missing comes last, either way
          const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
          return descending ? -order : order;
        };
        const sorted = [...body.rows].map((line) => [value(line), line]).sort((one, other) => compare(one[0], other[0]));
        body.append(...sorted.map(([, line]) => line));
      });
    });
  }

  // One filter for all tables and charts.
  const filter = byId("filter"), fate = byId("fate"), count = byId("count");
  function apply() {
    state.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    state.fate = fate.value;
    const visible = rows.map((_, row) => shown(row));
    for (const line of document.querySelectorAll("tr[data-row]")) line.hidden = !visible[line.dataset.row];
    const number = visible.filter(Boolean).length;
    count.textContent = number === rows.length ? `${rows.length} shown` : `${number} of ${rows.length} shown`;
    again();
  }
  filter.addEventListener("input", apply);
  fate.addEventListener("change", apply);
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  filter.form.hidden = false;
  apply();
  if (measure) {
    measure.closest("p").hidden = false;
    measure.addEventListener("change", again);
  }
  let width = document.documentElement.clientWidth, waiting = 0;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(again, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  // On paper, everything is unfolded, and charts have the colours of paper.
  const closed = [];
  window.addEventListener("beforeprint", () => {
    closed.push(...document.querySelectorAll("details:not([open])"));
    closed.forEach((each) => { each.open = true; });
    document.documentElement.dataset.paper = "";
    again();
  });
  window.addEventListener("afterprint", () => {
    closed.splice(0).forEach((each) => { each.open = false; });
    delete document.documentElement.dataset.paper;
    again();
  });
  document.documentElement.dataset.ready = "yes";
})();
