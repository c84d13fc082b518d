/* A photograph and what is drawn over it.

   Picture({overlay, photo, alt, width, height, mode, opacity, zoom, onPhotoMissing}):
     overlay   address of a picture of the photograph's size
     photo     address of the photograph; may be missing, or fail to load: the overlay then stands alone
     mode      "over" (the overlay above the photograph, by its opacity), "slider" (one beside the other behind a line
               that is dragged, or moved with the arrow keys), "photo"
     opacity   0 to 1, of "over"
     zoom      1 fills the width; more scrolls
*/
(function () {
  "use strict";
  const { html, useLayoutEffect, useRef, useState } = htmPreact;

  function Layer(props) {
    return html`<img src=${props.src} alt=${props.alt} width=${props.width} height=${props.height} slot=${props.slot}
      class=${props.class} style=${props.style} draggable=${false} onError=${props.onError} decoding="async" />`;
  }

  /** What is in the middle of a box that scrolls, as shares of what it holds. */
  function middle(box) {
    return [(box.scrollLeft + box.clientWidth / 2) / box.scrollWidth,
      (box.scrollTop + box.clientHeight / 2) / box.scrollHeight];
  }

  /** The line of the slider stays within what is seen. */
  function keepLine(box) {
    const slider = box.querySelector("img-comparison-slider");
    if (!slider || typeof slider.value !== "number") { return; }
    const seen = 100 * box.clientWidth / box.scrollWidth, left = 100 * box.scrollLeft / box.scrollWidth;
    const value = Math.min(left + 0.95 * seen, Math.max(left + 0.05 * seen, slider.value));
    if (seen < 100 && value !== slider.value) { slider.value = value; }
  }

  function Picture(props) {
    const box = useRef(null);
    // Read before the new size is set: a box that shrinks moves what it shows.
    const centre = box.current && middle(box.current);
    useLayoutEffect(function () {
      if (!centre) { return; }
      const now = box.current;
      now.scrollLeft = centre[0] * now.scrollWidth - now.clientWidth / 2;
      now.scrollTop = centre[1] * now.scrollHeight - now.clientHeight / 2;
      keepLine(now);
    }, [props.zoom, props.mode]);
    const [missing, setMissing] = useState(null);
    const gone = function () {
      setMissing(props.photo);
      if (props.onPhotoMissing) { props.onPhotoMissing(); }
    };
    const photo = props.photo && missing !== props.photo ? props.photo : null;
    const mode = photo && props.overlay ? props.mode || "over" : "alone";
    const size = { width: props.width, height: props.height };
    const name = props.alt || "";
    let inside;
    if (mode === "slider") {
      inside = html`<img-comparison-slider tabindex="0" aria-label="photograph and overlay: arrow keys move the line">
        <${Layer} key=${photo} slot="first" src=${photo} alt="photograph" onError=${gone} ...${size} />
        <${Layer} key=${props.overlay} slot="second" src=${props.overlay} alt=${name} ...${size} />
      </img-comparison-slider>`;
    } else if (mode === "over") {
      const opacity = props.opacity === undefined ? 1 : props.opacity;
      inside = html`<div class="layers">
        <${Layer} key=${photo} src=${photo} alt="photograph" onError=${gone} ...${size} />
        <${Layer} key=${props.overlay} src=${props.overlay} alt=${name} class="above" style=${{ opacity: opacity }}
          ...${size} />
      </div>`;
    } else {
      const only = mode === "photo" ? photo : props.overlay || photo;
      inside = only && html`<div class="layers">
        <${Layer} key=${only} src=${only} alt=${name} onError=${only === photo ? gone : undefined} ...${size} />
      </div>`;
    }
    return html`<div class="picture" ref=${box} onScroll=${function () { keepLine(box.current); }}
      tabindex=${props.zoom > 1 ? 0 : undefined}>
      <div class="sheet" style=${{ width: 100 * (props.zoom || 1) + "%" }}>${inside}</div>
    </div>`;
  }

  cnnviz.components.Picture = Picture;
})();
