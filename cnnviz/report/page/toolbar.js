/* The controls above the cards: Toolbar({all, runs, view, count, put, searchRef, onHelp}). */
(function () {
  "use strict";
  const { html, useMemo } = htmPreact;

  /** Choice({label, any, items: [[value, text]], value, onChoose}): of the same list of items it draws options once. */
  function Choice(props) {
    const options = useMemo(function () {
      return props.items.map(function (item) { return html`<option key=${item[0]} value=${item[0]}>${item[1]}</option>`; });
    }, [props.items]);
    if (!props.items.length) { return null; }
    return html`<label class="choice">${props.label}
      <select aria-label=${props.label} value=${props.value} onChange=${function (event) { props.onChoose(event.target.value); }}>
        ${props.any && html`<option value="">${props.any}</option>`}
        ${options}
      </select></label>`;
  }

  function counted(entries) {
    return entries.map(function (entry) { return [entry[0], entry[0] + " (" + entry[1] + ")"]; });
  }

  function checks(runs) {
    const found = [];
    runs.forEach(function (run) {
      run.checks.forEach(function (check, number) {
        if (!check.shown) { return; }
        const of = check.beyond > check.shown ? check.shown + " worst of " + check.beyond : String(check.shown);
        const sign = check.verdict === "warning" ? "! " : "✗ ";
        found.push([run.place + "." + number,
          sign + check.name + " (" + of + ")" + (runs.length > 1 ? " in " + run.name : "")]);
      });
    });
    return found;
  }

  function sorts(props) {
    const found = [["", "as in the run"], ["path", "path"], ["-probability", "probability, highest first"],
      ["probability", "probability, lowest first"]];
    if (checks(props.runs).length) { found.unshift(["worst", "worst of the checks first"]); }
    if (props.view.score) {
      found.push(["-score", props.view.score + ", highest first"], ["score", props.view.score + ", lowest first"]);
    }
    return found;
  }

  function Toolbar(props) {
    const view = props.view, all = props.all;
    const set = function (key) {
      return function (value) { const change = {}; change[key] = value; props.put(change); };
    };
    const typed = function (key) { return function (event) { set(key)(event.target.value); }; };
    const outcomes = (all.outcomes ? [["right", "✓ right"], ["wrong", "✗ wrong"]] : [])
      .concat(all.failures ? [["failed", "⚠ failed"]] : []);
    const runs = props.runs.length > 1
      ? props.runs.map(function (run) { return [String(run.place), run.name]; }) : [];
    const methods = all.methods.length > 1 ? all.methods.map(function (name) { return [name, name]; }) : [];
    // Thousands of classes are drawn once.
    const lists = useMemo(function () {
      return { truths: counted(all.truths), predicted: counted(all.predicted),
        scores: all.scores.map(function (each) { return [each[0], each[0]]; }) };
    }, [all]);
    const score = function (value) {
      props.put({ score: value, min: "", max: "", sort: value ? "-score" : view.sort.replace(/^-?score$/, "") });
    };
    return html`<div class="toolbar" role="search">
      <input type="search" ref=${props.searchRef} value=${view.q} placeholder="Search ( / )" aria-label="search"
        onInput=${typed("q")} />
      <${Choice} label="run" any="all" items=${runs} value=${view.run} onChoose=${set("run")} />
      <${Choice} label="outcome" any="any" items=${outcomes} value=${view.outcome} onChoose=${set("outcome")} />
      <${Choice} label="truth" any="any" items=${lists.truths} value=${view.truth} onChoose=${set("truth")} />
      <${Choice} label="predicted" any="any" items=${lists.predicted} value=${view.predicted}
        onChoose=${set("predicted")} />
      <${Choice} label="check" any="any" items=${checks(props.runs)} value=${view.check} onChoose=${set("check")} />
      <${Choice} label="method" any="all" items=${methods} value=${view.method} onChoose=${set("method")} />
      <${Choice} label="score" any="none" items=${lists.scores}
        value=${view.score} onChoose=${score} />
      ${view.score && html`<span class="range">
        <input type="number" step="any" aria-label="least" placeholder="least" value=${view.min} onInput=${typed("min")} />
        to <input type="number" step="any" aria-label="most" placeholder="most" value=${view.max}
          onInput=${typed("max")} /></span>`}
      <${Choice} label="sort" items=${sorts(props)} value=${view.sort} onChoose=${set("sort")} />
      <span class="count" role="status">${props.count === all.rows.length
        ? cnnviz.words.counted(props.count, "image", "images")
        : props.count.toLocaleString("en") + " of " + cnnviz.words.counted(all.rows.length, "image", "images")}</span>
      ${cnnviz.view.isFiltered(view) && html`<button type="button"
        onClick=${function () { props.put(cnnviz.view.cleared(view)); }}>Clear filters</button>`}
      <button type="button" aria-label="help" title="Keys ( ? )" onClick=${props.onHelp}>?</button>
    </div>`;
  }

  cnnviz.components.Choice = Choice;
  cnnviz.components.Toolbar = Toolbar;
})();
