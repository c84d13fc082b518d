/* The card of an image: Card({row, runs, view, onOpen}). */
(function () {
  "use strict";
  const { html, useState } = htmPreact;
  const SIGNS = { right: "✓ ", wrong: "✗ " };

  /** A path, its last part set off: Path({path}). */
  function Path(props) {
    const cut = props.path.lastIndexOf("/") + 1;
    return html`<span class="folder">${props.path.slice(0, cut)}</span><wbr />${props.path.slice(cut)}`;
  }

  /** What is said of an image beside its maps: Facts({row, runs}). */
  function Facts(props) {
    const row = props.row, run = props.runs[row.run];
    return html`
      ${row.said && html`<p class=${"outcome " + row.outcome}>${SIGNS[row.outcome]}${row.said}</p>`}
      <p class="facts">${[].concat(props.runs.length > 1 ? [run.name] : [], row.facts || []).join(" · ")}</p>
      ${row.checks && html`<ul class="checks">${row.checks.map(function (each) {
        const check = run.checks[each[0]];
        const warning = check.verdict === "warning";
        return html`<li key=${each[0]} class=${warning ? "warning" : "violated"}>
          <strong>${warning ? "! warning" : "✗ VIOLATED"}</strong> ${check.title}: ${each[2]}</li>`;
      })}</ul>`}
      ${row.error && html`<p class="error">⚠ ${row.error}</p>`}`;
  }

  /** The maps that a view shows of a row. */
  function mapsOf(row, view) {
    return (row.maps || []).filter(function (map) { return !view.method || map.method === view.method; });
  }

  function sameScore(map, name) {
    return (map.scores || []).find(function (score) { return score[0] === name; });
  }

  function Caption(props) {
    const map = props.map;
    // Of a comparison its result is said without being asked for.
    const score = (props.score && sameScore(map, props.score)) || sameScore(map, "similarity");
    return html`<div class="caption"><strong>${map.target}</strong> ${map.sure}
      <p class="facts">${map.method}${map.layer && " at " + map.layer}${map.note && ": " + map.note}</p>
      ${score && html`<p class="facts">${score[0]} <b>${score[1]}</b></p>`}</div>`;
  }

  function Card(props) {
    const row = props.row, maps = mapsOf(row, props.view);
    const [at, setAt] = useState(null);
    const [broken, setBroken] = useState(null);
    // A picture of the whole image stands before those of single targets.
    const figures = row.figures || [], lead = figures.length ? 1 : 0;
    // Of maps of which some have no picture, such as those of guesses beside the truth, one that has.
    const drawnFirst = lead ? 0 : Math.max(0, maps.findIndex(function (each) { return each.picture; }));
    const chosen = Math.min(at === null ? drawnFirst : at, lead + maps.length - 1);
    const figure = chosen < 1 && figures[0], map = figure ? undefined : maps[chosen - lead];
    const wide = Boolean((map && map.wide) || figures.length);
    // Without a picture of its own, such as of --save none, the photograph.
    const drawn = map ? map.picture : figure ? figure.picture : null;
    const picture = drawn || row.photo;
    const gone = Boolean(picture) && broken === picture;
    const size = row.size && !wide && map ? { width: row.size[0], height: row.size[1] } : {};
    const open = function () { props.onOpen(row, map ? row.maps.indexOf(map) : 0); };
    const items = (lead ? [{ key: 0, text: "all" }] : []).concat(maps.map(function (each, place) {
      return { key: place + lead, text: each.target, note: maps.some(function (other) {
        return other.method !== each.method; }) ? each.method : "" };
    }));
    return html`<article class=${"card" + (wide ? " wide" : "") + (row.error ? " failed" : "")} tabindex="0"
      data-id=${row.id} aria-label=${row.path}>
      ${picture && html`<button type="button" class="open" tabindex="-1" onClick=${open} aria-label=${"open " + row.path}>
        ${gone ? html`<span class="facts">${cnnviz.words.unshown(!drawn)}</span>`
          : html`<img key=${picture} src=${picture} loading="lazy" decoding="async" ...${size}
            onError=${function () { setBroken(picture); }}
            alt=${!drawn ? row.path : map ? map.method + " " + map.kind + " for " + map.target : figure.caption} />`}
        </button>`}
      <div class="text">
        <h2><button type="button" class="link" tabindex="-1" onClick=${open}><${Path} path=${row.path} /></button></h2>
        <${Facts} row=${row} runs=${props.runs} />
        ${items.length > 1 && html`<${cnnviz.components.Tabs} label="maps" items=${items} onChoose=${setAt}
          chosen=${chosen} />`}
        ${map && html`<${Caption} map=${map} score=${props.view.score} />`}
        ${figure && html`<p class="caption">${figure.caption}</p>`}
        <${cnnviz.components.Predictions} rows=${(row.predictions || []).slice(0, 5).map(function (each) {
          return { label: each[0], probability: each[1], note: each[2] }; })} />
      </div>
    </article>`;
  }

  Object.assign(cnnviz.components, { Path: Path, Card: Card, Facts: Facts, Caption: Caption });
})();
