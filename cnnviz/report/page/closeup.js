/* An image from near, in a dialog: CloseUp({row, runs, map, look, place, count, put, onStep, onClose}). */
(function () {
  "use strict";
  const { html, useEffect, useRef, useState } = htmPreact;

  function unique(list) { return Array.from(new Set(list)); }

  /** Method and layer of a map, where a method has several layers. */
  function kindOf(map, maps) {
    const layers = unique(maps.filter(function (each) { return each.method === map.method; })
      .map(function (each) { return each.layer; }));
    return layers.length > 1 ? map.method + " at " + map.layer : map.method;
  }

  function Details(props) {
    const map = props.map;
    const scores = map.scores || [];
    return html`
      <${cnnviz.components.Caption} map=${map} />
      ${scores.length > 0 && html`<table class="scores"><tbody>${scores.map(function (score) {
        return html`<tr key=${score[0]}><th scope="row">${score[0]}</th><td>${score[1]}</td></tr>`;
      })}</tbody></table>`}
      ${map.files && html`<p class="links">${map.files.map(function (file) {
        return html`<a key=${file[0]} href=${file[1]} target="_blank" rel="noopener">${file[0]}</a>`;
      })}</p>`}
      ${(map.curves || []).map(function (curve) {
        const last = Math.max(1, curve[1].length - 1);
        const x = curve[1].map(function (_, k) { return 100 * k / last; });
        return html`<${cnnviz.components.Curve} key=${curve[0]} title=${curve[0]} x=${x} xLabel="% of the steps"
          lines=${[{ name: curve[0], values: curve[1] }]} />`;
      })}`;
  }

  function Switches(props) {
    const maps = props.row.maps || [], map = maps[props.map];
    if (maps.length < 2) { return null; }
    const kinds = unique(maps.map(function (each) { return kindOf(each, maps); }));
    const own = kindOf(map, maps);
    const ofKind = function (kind) {
      return maps.map(function (each, k) { return k; }).filter(function (k) { return kindOf(maps[k], maps) === kind; });
    };
    const choose = function (kind) {
      const same = ofKind(kind).find(function (k) { return maps[k].target === map.target; });
      props.onMap(same === undefined ? ofKind(kind)[0] : same);
    };
    const targets = ofKind(own).map(function (k) { return { key: k, text: maps[k].target, note: maps[k].sure }; });
    return html`
      ${kinds.length > 1 && html`<h3>Method</h3><${cnnviz.components.Tabs} label="method" chosen=${own}
        items=${kinds.map(function (kind) { return { key: kind, text: kind }; })} onChoose=${choose} />`}
      ${targets.length > 1 && html`<h3>Target</h3><${cnnviz.components.Tabs} label="target" chosen=${props.map}
        items=${targets} onChoose=${props.onMap} />`}`;
  }

  function CloseUp(props) {
    const dialog = useRef(null);
    const [opacity, setOpacity] = useState(1);
    const [zoom, setZoom] = useState(1);
    const row = props.row, maps = row.maps || [], number = maps.length ? Math.min(props.map, maps.length - 1) : 0;
    const map = maps[number], run = props.runs[row.run];
    useEffect(function () { if (!dialog.current.open) { dialog.current.showModal(); } }, []);
    useEffect(function () { setZoom(1); }, [row.id]);
    const keys = function (event) {
      const busy = /^(INPUT|SELECT|IMG-COMPARISON-SLIDER)$/.test(event.target.tagName);
      if (busy && event.key.indexOf("Arrow") === 0) { return; }
      if (zoom > 1 && event.target.classList.contains("picture") && event.key.indexOf("Arrow") === 0) { return; }
      const act = {
        ArrowRight: function () { props.onStep(1); }, ArrowLeft: function () { props.onStep(-1); },
        ArrowDown: function () { if (maps.length) { props.onMap((number + 1) % maps.length); } },
        ArrowUp: function () { if (maps.length) { props.onMap((number - 1 + maps.length) % maps.length); } },
        "+": function () { setZoom(cnnviz.zoomed(zoom, 1)); }, "-": function () { setZoom(cnnviz.zoomed(zoom, -1)); },
        o: function () { props.onLook("over"); }, s: function () { props.onLook("slider"); },
        p: function () { props.onLook("photo"); }
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    };
    return html`<dialog class="closeup" ref=${dialog} aria-label=${row.path} onKeyDown=${keys}
      onCancel=${function (event) { event.preventDefault(); props.onClose(); }}
      onClick=${function (event) { if (event.target === dialog.current) { props.onClose(); } }}>
      <div class="bar-above">
        <button type="button" disabled=${props.place === 0} onClick=${function () { props.onStep(-1); }}>← before</button>
        <span>${props.place + 1} of ${props.count.toLocaleString("en")}</span>
        <button type="button" disabled=${props.place === props.count - 1}
          onClick=${function () { props.onStep(1); }}>next →</button>
        <button type="button" class="close" onClick=${props.onClose}>Close (Esc)</button>
      </div>
      <div class=${"halves" + ((map && map.wide) || row.figures ? " broad" : "")}>
        <div>
          ${(row.figures || []).map(function (figure) {
            return html`<figure key=${figure.picture}><a href=${figure.picture} target="_blank" rel="noopener">
              <img src=${figure.picture} alt=${figure.caption} /></a><figcaption>${figure.caption}</figcaption></figure>`;
          })}
          ${(map || !row.figures) && html`<${cnnviz.components.MapView} row=${row} map=${map} look=${props.look}
            onLook=${props.onLook} opacity=${opacity} onOpacity=${setOpacity} zoom=${zoom} onZoom=${setZoom} />`}
        </div>
        <div>
          <h2><${cnnviz.components.Path} path=${row.path} /></h2>
          <${cnnviz.components.Facts} row=${row} runs=${props.runs} />
          <${Switches} row=${row} map=${number} onMap=${props.onMap} />
          ${map && html`<${Details} map=${map} />`}
          ${row.predictions && html`<h3>Predictions</h3><${cnnviz.components.Predictions}
            rows=${row.predictions.map(function (each) {
              return { label: each[0], probability: each[1], note: each[2] }; })} />`}
          <h3>Command</h3><${cnnviz.components.Command} text=${run.command} />
        </div>
      </div>
    </dialog>`;
  }

  cnnviz.components.CloseUp = CloseUp;
})();
