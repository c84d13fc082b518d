/* The photograph, the map over it, and what can be clicked there.

   Stage({image, map, alpha, colormap, mode, boxes, chosen, busy, onPlace}):
     image    {image, width, height, seen}; map: what api/explain answered, or null
     boxes    [{number, label, box}] of a detector; chosen: the target that is shown
     onPlace  gets a place in pixels of the photograph
   With the keyboard: the arrow keys move a cross, Enter asks what is under it. */
(function () {
  "use strict";
  const { html, useState } = htmPreact;
  const query = cnnviz.asking.query;
  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /** The address of a map's colours. Where weights grow with the value, the server puts the opacity in. */
  function layerOf(props) {
    if (!props.map) { return null; }
    const alpha = props.map.signed ? props.alpha : 1;
    return "api/results/" + props.map.result + "/layer.png" + query({ colormap: props.colormap, alpha: alpha });
  }

  function photoOf(image) { return "api/images/" + image.image + "/photo.jpg"; }

  function Marks(props) {
    const { image, boxes, cross } = props;
    const [x0, y0, x1, y1] = image.seen;
    const part = x0 > 0.5 || y0 > 0.5 || x1 < image.width - 0.5 || y1 < image.height - 0.5;
    const text = Math.max(image.width, image.height) / 45;
    const arm = text;
    return html`<svg class="above marks" viewBox=${"0 0 " + image.width + " " + image.height} aria-hidden="true">
      ${part && html`<rect class="seen" x=${x0} y=${y0} width=${x1 - x0} height=${y1 - y0} />`}
      ${boxes.map(function (each) {
        const [x, y, width, height] = each.box;
        const chosen = each.target === props.chosen;
        return html`<g key=${each.target} class=${chosen ? "box chosen" : "box"}>
          <rect x=${x} y=${y} width=${width} height=${height} />
          <text x=${Math.max(x, 0) + text / 4} y=${Math.max(y, 0) + text} font-size=${text}>${chosen ? each.label
            : each.number}</text>
        </g>`;
      })}
      ${cross && html`<path class="cross" d=${"M" + (cross[0] - arm) + " " + cross[1] + "h" + 2 * arm + "M" + cross[0] +
        " " + (cross[1] - arm) + "v" + 2 * arm} />`}
    </svg>`;
  }

  function Stage(props) {
    const { image, map } = props;
    const [cross, setCross] = useState(null);
    const layer = layerOf(props);
    if (props.mode === "slider" && layer) {
      const whole = "api/results/" + map.result + "/shown.jpg" + query({ colormap: props.colormap, alpha: props.alpha });
      return html`<${cnnviz.components.Picture} photo=${photoOf(image)} overlay=${whole} alt="map" mode="slider"
        width=${image.width} height=${image.height} />`;
    }
    const click = function (event) {
      const box = event.currentTarget.getBoundingClientRect();
      const place = [
        (event.clientX - box.left) / box.width * image.width, (event.clientY - box.top) / box.height * image.height
      ];
      setCross(place);
      props.onPlace(place[0], place[1]);
    };
    const press = function (event) {
      const at = cross || [image.width / 2, image.height / 2];
      const move = MOVES[event.key];
      if (move) {
        const step = (event.shiftKey ? 0.1 : 0.02) * Math.max(image.width, image.height);
        const inside = function (value, most) { return Math.min(most - 0.5, Math.max(0.5, value)); };
        setCross([inside(at[0] + move[0] * step, image.width), inside(at[1] + move[1] * step, image.height)]);
      } else if (event.key === "Enter" || event.key === " ") {
        props.onPlace(at[0], at[1]);
      } else {
        return;
      }
      event.preventDefault();
    };
    const shown = props.mode !== "photo" && layer;
    const opacity = map && !map.signed ? props.alpha : 1;
    const size = { width: image.width, height: image.height };
    return html`<div class=${"picture stage" + (props.busy ? " busy" : "")}>
      <div class="layers" tabindex="0" role="application" onClick=${click} onKeyDown=${press}
        aria-label="photograph: click, or move the cross with the arrow keys and press Enter, to explain what lies there">
        <img src=${photoOf(image)} alt="photograph" draggable=${false} ...${size} />
        ${shown && html`<img class="above map" key=${layer} src=${layer} alt="map" draggable=${false}
          style=${{ opacity: opacity }} />`}
        ${shown && map.outline && html`<img class="above" src=${"api/results/" + map.result + "/outline.png"} alt=""
          draggable=${false} />`}
        <${Marks} image=${image} boxes=${props.boxes} chosen=${props.chosen} cross=${cross} />
      </div>
    </div>`;
  }

  cnnviz.components.Stage = Stage;
})();
