/* A map from near: MapView({row, map, look, onLook, opacity, onOpacity, zoom, onZoom}). */
(function () {
  "use strict";
  const { html, useState } = htmPreact;
  const LOOKS = [{ key: "over", text: "overlay" }, { key: "slider", text: "slider" }, { key: "photo", text: "photograph" }];
  const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];

  /** The next zoom, in steps of one. */
  function zoomed(zoom, step) {
    const at = ZOOMS.findIndex(function (each) { return each >= zoom; });
    return ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, at + step))];
  }

  function MapView(props) {
    const row = props.row, map = props.map;
    const [without, setWithout] = useState("");
    const photo = map && map.kind === "overlay" && row.photo && without !== row.photo ? row.photo : null;
    const picture = map ? map.picture : null;
    const size = row.size && !(map && map.wide) ? { width: row.size[0], height: row.size[1] } : {};
    return html`<div class="map">
      <div class="tools">
        ${photo && html`<${cnnviz.components.Tabs} label="what is shown" items=${LOOKS} chosen=${props.look}
          onChoose=${props.onLook} />
        <${cnnviz.components.Slider} label="opacity" min="0" max="1" step="0.05" value=${props.opacity}
          disabled=${props.look !== "over"} text=${Math.round(100 * props.opacity) + " %"} onInput=${props.onOpacity} />`}
        <span class="zoom" role="group" aria-label="zoom">
          <button type="button" aria-label="smaller" disabled=${props.zoom === 1}
            onClick=${function () { props.onZoom(zoomed(props.zoom, -1)); }}>−</button>
          <output>${Math.round(100 * props.zoom)} %</output>
          <button type="button" aria-label="larger" disabled=${props.zoom === 8}
            onClick=${function () { props.onZoom(zoomed(props.zoom, 1)); }}>+</button></span>
      </div>
      ${picture || (row.photo && without !== row.photo) ? html`<${cnnviz.components.Picture} overlay=${picture}
        photo=${picture ? photo : row.photo}
        mode=${props.look} opacity=${props.opacity} zoom=${props.zoom} ...${size}
        onPhotoMissing=${function () { setWithout(row.photo); }}
        alt=${map ? map.method + " " + map.kind + " for " + map.target : row.path} />`
        : html`<p class="facts">${row.photo ? cnnviz.words.unshown(true) : "no picture was kept"}</p>`}
      ${map && map.kind === "overlay" && !photo && html`<p class="facts">The photograph is not beside this page: only the
        overlay can be shown.</p>`}
    </div>`;
  }

  cnnviz.zoomed = zoomed;
  cnnviz.components.MapView = MapView;
})();
