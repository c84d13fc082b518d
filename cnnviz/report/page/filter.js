/* Which rows a view shows, and in which order. No document, no components: numbers and texts. */
(function () {
  "use strict";
  const byName = new Intl.Collator("en", { numeric: true }).compare;

  /** What all rows have, looked through once: for the choices of the toolbar, and so that a filter only compares. */
  function prepared(runs) {
    const rows = [], scores = new Map(), truths = new Map(), predicted = new Map(), methods = new Map();
    let right = false, failed = false;
    const count = function (map, key) { map.set(key, (map.get(key) || 0) + 1); };
    runs.forEach(function (run) {
      run.rows.forEach(function (row) {
        row.place = rows.length;
        rows.push(row);
        const maps = row.maps || [], first = (row.predictions || [])[0];
        row.text = [row.path, (row.truth || []).join(" "), first ? first[0] : "", (row.facts || []).join(" "),
          maps.map(function (map) { return map.target; }).join(" ")].join(" ").toLowerCase();
        if (row.truth) { count(truths, row.truth[0]); }
        if (first) { count(predicted, first[0]); }
        right = right || Boolean(row.outcome);
        failed = failed || Boolean(row.error);
        const own = new Set();
        maps.forEach(function (map) {
          own.add(map.method);
          (map.scores || []).forEach(function (score) { if (typeof score[2] === "number") { count(scores, score[0]); } });
        });
        own.forEach(function (method) { count(methods, method); });
        row.rank = rankOf(row);
      });
    });
    return { rows: rows, scores: names(scores), truths: names(truths), predicted: names(predicted),
      methods: Array.from(methods.keys()), outcomes: right, failures: failed };
  }

  function names(map) {
    return Array.from(map.entries()).sort(function (a, b) { return byName(a[0], b[0]); });
  }

  /** Worst first: its best place among the worst of a check, then how many checks name it. */
  function rankOf(row) {
    if (!row.checks) { return Infinity; }
    const place = Math.min.apply(null, row.checks.map(function (each) { return each[1]; }));
    return place + 1 / (1 + row.checks.length);
  }

  function scoreOf(row, view, larger) {
    let best = null;
    (row.maps || []).forEach(function (map) {
      if (view.method && map.method !== view.method) { return; }
      (map.scores || []).forEach(function (score) {
        if (score[0] !== view.score || typeof score[2] !== "number") { return; }
        if (best === null || (larger ? score[2] > best : score[2] < best)) { best = score[2]; }
      });
    });
    return best;
  }

  function inRange(row, view, low, high) {
    return (row.maps || []).some(function (map) {
      return (!view.method || map.method === view.method) && (map.scores || []).some(function (score) {
        return score[0] === view.score && typeof score[2] === "number" && score[2] >= low && score[2] <= high;
      });
    });
  }

  function bound(text, otherwise) {
    const value = text === "" ? NaN : Number(text);
    return Number.isNaN(value) ? otherwise : value;
  }

  /** The rows of a view, in its order. */
  function shown(all, view) {
    const wanted = view.q.toLowerCase().split(/\s+/).filter(Boolean);
    const low = bound(view.min, -Infinity), high = bound(view.max, Infinity);
    const ranged = view.score && (view.min !== "" || view.max !== "");
    const check = view.check === "" ? null : view.check.split(".").map(Number);
    const rows = all.rows.filter(function (row) {
      if (view.run !== "" && row.run !== Number(view.run)) { return false; }
      if (view.outcome === "failed" ? !row.error : view.outcome && row.outcome !== view.outcome) { return false; }
      if (view.truth && (!row.truth || row.truth[0] !== view.truth)) { return false; }
      if (view.predicted && (!row.predictions || row.predictions[0][0] !== view.predicted)) { return false; }
      if (check && !(row.run === check[0] && row.checks &&
        row.checks.some(function (each) { return each[0] === check[1]; }))) { return false; }
      if (view.method && row.maps && !row.maps.some(function (map) { return map.method === view.method; })) {
        return false;
      }
      if (ranged && !inRange(row, view, low, high)) { return false; }
      return wanted.every(function (word) { return row.text.indexOf(word) >= 0; });
    });
    return ordered(rows, view);
  }

  function ordered(rows, view) {
    const sort = view.sort;
    if (sort === "worst") { return rows.sort(function (a, b) { return a.rank - b.rank || a.place - b.place; }); }
    if (sort === "path") { return rows.sort(function (a, b) { return byName(a.path, b.path) || a.place - b.place; }); }
    const down = sort.charAt(0) === "-";
    const by = sort.replace(/^-/, "");
    if (by !== "probability" && by !== "score") { return rows; }
    const keys = new Map();
    rows.forEach(function (row) {
      const first = (row.predictions || [])[0];
      const value = by === "score" ? scoreOf(row, view, down) : first ? first[1] : null;
      keys.set(row, typeof value === "number" ? value : null);
    });
    return rows.sort(function (a, b) {
      const x = keys.get(a), y = keys.get(b);
      if (x === null || y === null) { return (x === null) - (y === null) || a.place - b.place; }
      return (down ? y - x : x - y) || a.place - b.place;
    });
  }

  cnnviz.filter = { prepared: prepared, shown: shown };
})();
