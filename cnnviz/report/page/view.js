/* The view: what is filtered, how it is ordered, what is open. It is kept in the address, behind the #. */
(function () {
  "use strict";
  const EMPTY = { run: "", q: "", truth: "", predicted: "", outcome: "", check: "", method: "", score: "", min: "",
    max: "", sort: "", open: "", map: "", look: "" };
  /** What is no filter: it stays when filters are cleared. */
  const KEPT = ["sort", "open", "map", "look"];

  /** The view of an address. Unknown words are passed over. */
  function read(hash) {
    const view = Object.assign({}, EMPTY);
    new URLSearchParams(hash.replace(/^#/, "")).forEach(function (value, key) {
      if (Object.prototype.hasOwnProperty.call(EMPTY, key)) { view[key] = value; }
    });
    return view;
  }

  /** The address of a view: only what is not as usual. */
  function write(view) {
    const said = new URLSearchParams();
    Object.keys(EMPTY).forEach(function (key) { if (view[key] !== "") { said.set(key, view[key]); } });
    return "#" + said.toString();
  }

  function cleared(view) {
    const next = Object.assign({}, EMPTY);
    KEPT.forEach(function (key) { next[key] = view[key]; });
    return next;
  }

  function isFiltered(view) {
    return Object.keys(EMPTY).some(function (key) { return KEPT.indexOf(key) < 0 && view[key] !== ""; });
  }

  cnnviz.view = { read: read, write: write, cleared: cleared, isFiltered: isFiltered };
})();
