/* Numbers as people read them. */
(function () {
  "use strict";

  /** A probability as a share of a hundred; never a 0 or a 100 that is none. */
  function percent(probability) {
    if (typeof probability !== "number") { return ""; }
    const share = 100 * probability;
    if (share > 99.9 && share < 100) { return "> 99.9 %"; }
    return share > 0 && share < 0.1 ? "< 0.1 %" : share.toFixed(1) + " %";
  }

  /** Three digits, without noughts that say nothing. */
  function short(value) {
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
  }

  function counted(count, one, many) { return count.toLocaleString("en") + " " + (count === 1 ? one : many); }

  /** In the place of a picture that the browser cannot read or find. */
  function unshown(photograph) {
    return photograph ? "The photograph cannot be shown." : "The picture is not beside this page.";
  }

  cnnviz.words = { percent: percent, short: short, counted: counted, unshown: unshown };
})();
