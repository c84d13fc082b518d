/* The one global name of the page. Data files call cnnviz.data.runs and cnnviz.data.rows; components hang here. */
(function () {
  "use strict";
  const runs = [], pictures = [];
  let title = "";

  /** Maps keyed by names that people chose have no prototype: "__proto__" is a name like any other. */
  function dictionary() { return Object.create(null); }

  /** The address of a picture: of a single file, rows have numbers of pictures. */
  function address(picture) { return typeof picture === "number" ? pictures[picture] : picture; }

  function withAddresses(row) {
    row.photo = address(row.photo);
    [].concat(row.maps || [], row.figures || []).forEach(function (each) {
      each.picture = address(each.picture);
      (each.files || []).forEach(function (file) { file[1] = address(file[1]); });
    });
  }

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
      /** The next pictures of a single file, each once: JSON of a list of addresses. */
      pictures: function (text) { JSON.parse(text).forEach(function (each) { pictures.push(each); }); },
      /** A chunk of the rows of a run: JSON of a list. */
      rows: function (place, text) {
        JSON.parse(text).forEach(function (row) {
          withAddresses(row);
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
