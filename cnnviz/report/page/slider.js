/* A number between two ends.

   Slider({label, value, min, max, step, text, onInput}): a labelled range with its value in words. */
(function () {
  "use strict";
  const { html } = htmPreact;

  function Slider(props) {
    const put = function (event) { props.onInput(Number(event.target.value)); };
    return html`<label class="slider"><span>${props.label}</span>
      <input type="range" min=${props.min} max=${props.max} step=${props.step} value=${props.value}
        disabled=${props.disabled} onInput=${put} />
      <output>${props.text === undefined ? props.value : props.text}</output>
    </label>`;
  }

  cnnviz.components.Slider = Slider;
})();
