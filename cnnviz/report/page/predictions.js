/* What the network says of an image.

   Predictions({rows: [{label, probability, note}], onChoose, chosen}): best first, with a bar for each probability.
   With onChoose each is a button that gets the row's number. */
(function () {
  "use strict";
  const { html } = htmPreact;

  function Predictions(props) {
    if (!props.rows || !props.rows.length) { return null; }
    return html`<ol class="predictions">${props.rows.map(function (row, place) {
      const share = typeof row.probability === "number" ? Math.min(1, Math.max(0, row.probability)) : null;
      const name = props.onChoose
        ? html`<button type="button" aria-pressed=${String(props.chosen === place)}
            onClick=${function () { props.onChoose(place); }}>${row.label}</button>`
        : row.label;
      return html`<li key=${place}>
        <span>${name}${row.note && html` <small>${row.note}</small>`}</span>
        ${share === null ? html`<span></span>`
          : html`<span class="bar"><i style=${{ width: (100 * share).toFixed(1) + "%" }}></i></span>`}
        <span class="number">${cnnviz.words.percent(row.probability)}</span>
      </li>`;
    })}</ol>`;
  }

  cnnviz.components.Predictions = Predictions;
})();
