/* The keys, in a dialog; and a command that can be copied. */
(function () {
  "use strict";
  const { html, useEffect, useRef, useState } = htmPreact;
  const KEYS = [
    ["arrows", "move between cards; in the close view to the next image (← →) or map (↑ ↓)"],
    ["Enter", "open the card that has the focus"], ["Esc", "close; on the page: clear the filters"],
    ["/", "search"], ["o, s, p", "in the close view: overlay, slider, photograph"],
    ["+, −", "in the close view: larger, smaller"], ["?", "these keys"]
  ];

  function Help(props) {
    const dialog = useRef(null);
    useEffect(function () { dialog.current.showModal(); }, []);
    return html`<dialog class="help" ref=${dialog} aria-label="keys"
      onCancel=${function (event) { event.preventDefault(); props.onClose(); }}>
      <h2>Keys</h2>
      <dl>${KEYS.map(function (key) {
        return html`<div key=${key[0]}><dt><kbd>${key[0]}</kbd></dt><dd>${key[1]}</dd></div>`; })}</dl>
      <p class="facts">The address of the page keeps the view: filters, order and what is open.</p>
      <button type="button" onClick=${props.onClose}>Close</button>
    </dialog>`;
  }

  /** Copies a text; where the clipboard is not open to the page, by a selection. */
  function copy(text, done) {
    const selected = function () {
      const area = document.createElement("textarea");
      area.value = text;
      (document.querySelector("dialog[open]") || document.body).appendChild(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      done(copied);
    };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(text).then(function () { done(true); }, selected);
    } else { selected(); }
  }

  /** Command({text, whole}): the command as it is shown, with a button that copies all of it. */
  function Command(props) {
    const [said, setSaid] = useState("");
    const put = function () { copy(props.whole || props.text, function (done) { setSaid(done ? "✓ copied" : "select it and copy"); }); };
    return html`<p class="copyable"><code class="command">${props.text}</code>
      <button type="button" onClick=${put}>Copy</button> <span role="status">${said}</span></p>`;
  }

  Object.assign(cnnviz.components, { Help: Help, Command: Command });
})();
