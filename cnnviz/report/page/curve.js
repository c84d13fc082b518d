/* Lines over an axis.

   Curve({title, x, lines: [{name, values, dash}], xLabel, yLabel, height}): drawn with uPlot, where that is loaded;
   lines differ in their dashes as well as in colour. */
(function () {
  "use strict";
  const { html, useEffect, useRef } = htmPreact;
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

  function style(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function Curve(props) {
    const place = useRef(null);
    useEffect(function () {
      if (!window.uPlot) { return undefined; }
      const ink = style("--soft"), grid = style("--line"), colours = [style("--fill"), style("--bad"), style("--ink")];
      const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
      const series = props.lines.map(function (line, k) {
        return { label: line.name, stroke: colours[k % colours.length], width: 2, dash: DASHES[k % DASHES.length],
          points: { show: false } };
      });
      const plot = new window.uPlot({
        width: place.current.clientWidth || 320, height: props.height || 180,
        scales: { x: { time: false } },
        axes: [Object.assign({ label: props.xLabel, labelSize: 18, size: 34 }, axis),
          Object.assign({ label: props.yLabel, labelSize: 18, size: 44 }, axis)],
        series: [{ label: props.xLabel || "x" }].concat(series)
      }, [props.x].concat(props.lines.map(function (line) { return line.values; })), place.current);
      return function () { plot.destroy(); };
    }, [props.title, JSON.stringify(props.lines)]);
    return html`<figure class="curve"><figcaption>${props.title}</figcaption><div ref=${place}></div></figure>`;
  }

  cnnviz.components.Curve = Curve;
})();
