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
  const { html, useState } = htmPreact;

  function Layer(props) {
    return html`<img src=${props.src} alt=${props.alt} width=${props.width} height=${props.height} slot=${props.slot}
      class=${props.class} style=${props.style} draggable=${false} onError=${props.onError} decoding="async" />`;
  }

  function Picture(props) {
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
    return html`<div class="picture" tabindex=${props.zoom > 1 ? 0 : undefined}>
      <div class="sheet" style=${{ width: 100 * (props.zoom || 1) + "%" }}>${inside}</div>
    </div>`;
  }

  cnnviz.components.Picture = Picture;
})();
