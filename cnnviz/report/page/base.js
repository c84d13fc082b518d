/* The one global name of the page. Data files call cnnviz.data.runs and cnnviz.data.rows; components hang here. */
(function () {
  "use strict";
  const runs = [];
  let title = "";

  /** Maps keyed by names that people chose have no prototype: "__proto__" is a name like any other. */
  function dictionary() { return Object.create(null); }

  window.cnnviz = {
    components: dictionary(),
    dictionary: dictionary,
    data: {
      /** What is known of the runs before their rows: JSON of {title, runs: [...]}. */
      runs: function (text) {
        const found = JSON.parse(text);
        title = found.title;
        found.runs.forEach(function (run, place) { runs[place] = Object.assign(run, { place: place, rows: [] }); });
      },
      /** A chunk of the rows of a run: JSON of a list. */
      rows: function (place, text) {
        JSON.parse(text).forEach(function (row) {
          row.run = place;
          row.id = place + "/" + row.name;
          runs[place].rows.push(row);
        });
      },
      all: function () { return runs; },
      title: function () { return title; }
    }
  };
})();
