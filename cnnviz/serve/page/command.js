/* Command({text}): a command line that can be copied. */
(function () {
  "use strict";
  const { html, useState, useRef } = htmPreact;

  function Command(props) {
    const [said, setSaid] = useState("");
    const line = useRef(null);
    const copy = function () {
      const selected = function () {
        getSelection().selectAllChildren(line.current);
        setSaid("selected");
      };
      if (!navigator.clipboard) { selected(); return; }
      navigator.clipboard.writeText(props.text).then(function () { setSaid("copied"); }, selected);
    };
    return html`<p class="command"><code ref=${line}>${props.text}</code>
      <button type="button" onClick=${copy}>Copy</button> <small role="status">${said}</small></p>`;
  }

  cnnviz.components.Command = Command;
})();
