/* One of a few: methods, targets, ways of looking.

   Tabs({label, items: [{key, text, note}], chosen, onChoose}): a list of tabs, moved through with the arrow keys. */
(function () {
  "use strict";
  const { html, useRef } = htmPreact;
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

  function Tabs(props) {
    const list = useRef(null);
    const move = function (event) {
      const step = STEPS[event.key];
      if (!step) { return; }
      event.preventDefault();
      event.stopPropagation();
      const count = props.items.length;
      const at = props.items.findIndex(function (item) { return item.key === props.chosen; });
      const next = (at + step + count) % count;
      props.onChoose(props.items[next].key);
      list.current.children[next].focus();
    };
    return html`<div class="tabs" role="tablist" aria-label=${props.label} ref=${list} onKeyDown=${move}>
      ${props.items.map(function (item) {
        const chosen = item.key === props.chosen;
        return html`<button type="button" role="tab" key=${item.key} aria-selected=${String(chosen)}
          tabindex=${chosen ? 0 : -1} onClick=${function () { props.onChoose(item.key); }}>
          ${item.text}${item.note && html`<small>${item.note}</small>`}
        </button>`;
      })}
    </div>`;
  }

  cnnviz.components.Tabs = Tabs;
})();
