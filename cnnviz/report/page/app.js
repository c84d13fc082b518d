/* The gallery: keeps the view, shows its rows, and answers to keys. It begins when all data files have run. */
(function () {
  "use strict";
  const { html, render, useEffect, useMemo, useRef, useState } = htmPreact;
  const PAGE = 30;

  function More(props) {
    const end = useRef(null);
    useEffect(function () {
      const seen = new IntersectionObserver(function (entries) { if (entries[0].isIntersecting) { props.onSeen(); } },
        { rootMargin: "1200px" });
      seen.observe(end.current);
      return function () { seen.disconnect(); };
    }, [props.count]);
    return html`<div class="more" ref=${end}><button type="button" onClick=${props.onSeen}>More</button></div>`;
  }

  /** Moves the focus to the card beside, above or below the one that has it. */
  function moveFocus(key) {
    const cards = Array.from(document.querySelectorAll("#gallery .card"));
    if (!cards.length) { return; }
    const at = cards.indexOf(document.activeElement.closest(".card"));
    if (at < 0) { cards[0].focus(); return; }
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (step) { (cards[at + step] || cards[at]).focus(); return; }
    const here = cards[at].getBoundingClientRect(), down = key === "ArrowDown";
    const beyond = cards.filter(function (card) {
      const box = card.getBoundingClientRect();
      return down ? box.top >= here.bottom - 1 : box.bottom <= here.top + 1;
    });
    const near = function (card) {
      const box = card.getBoundingClientRect();
      return Math.abs(box.top - here.top) * 4 + Math.abs(box.left - here.left);
    };
    beyond.sort(function (a, b) { return near(a) - near(b); });
    if (beyond.length) { beyond[0].focus(); }
  }

  /** Keeps the view in the address, and follows it there. */
  function useAddress(view, setView) {
    const written = useRef(cnnviz.view.write(view));
    useEffect(function () {
      const later = setTimeout(function () {
        const address = cnnviz.view.write(view);
        if (address === written.current) { return; }
        written.current = address;
        history.replaceState(null, "", address);
      }, 120);
      return function () { clearTimeout(later); };
    }, [view]);
    useEffect(function () {
      const follow = function () {
        written.current = location.hash;
        setView(cnnviz.view.read(location.hash));
      };
      addEventListener("hashchange", follow);
      return function () { removeEventListener("hashchange", follow); };
    }, []);
  }

  /** Keys of the page; those of a dialog are its own. */
  function useKeys(act) {
    const now = useRef(act);
    now.current = act;
    useEffect(function () {
      const pressed = function (event) {
        if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) { return; }
        const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
        if (event.key === "Escape") { now.current.escape(event.target); return; }
        if (typing || event.target.getAttribute("role") === "tab") { return; }
        if (event.key === "/") { event.preventDefault(); now.current.search(); }
        if (event.key === "?") { event.preventDefault(); now.current.help(); }
        if (event.key.indexOf("Arrow") === 0) { event.preventDefault(); moveFocus(event.key); }
        if (event.key === "Enter" && event.target.classList.contains("card")) { now.current.open(event.target); }
      };
      addEventListener("keydown", pressed);
      return function () { removeEventListener("keydown", pressed); };
    }, []);
  }

  /** The parts of the page above the cards that belong to a run that is not shown are hidden; cells become filters. */
  function useStatic(view, put) {
    const now = useRef(put);
    now.current = put;
    useEffect(function () {
      document.querySelectorAll("section.run").forEach(function (section) {
        section.hidden = view.run !== "" && section.dataset.run !== view.run;
        section.querySelectorAll("td[data-truth]").forEach(function (cell) {
          const chosen = cell.dataset.truth === view.truth && cell.dataset.predicted === view.predicted;
          cell.querySelector("button").setAttribute("aria-pressed", String(chosen));
        });
      });
    }, [view.run, view.truth, view.predicted]);
    return now;
  }

  function App(props) {
    const all = props.all, runs = props.runs;
    const [view, setView] = useState(props.view);
    const [many, setMany] = useState(PAGE);
    const [help, setHelp] = useState(false);
    const search = useRef(null), last = useRef(null);
    const put = function (change) {
      setView(function (old) { return Object.assign({}, old, change); });
      if (!("open" in change || "map" in change || "look" in change)) { setMany(PAGE); }
    };
    const filters = JSON.stringify(Object.assign({}, view, { open: "", map: "", look: "" }));
    const rows = useMemo(function () { return cnnviz.filter.shown(all, view); }, [filters]);
    const place = view.open ? rows.findIndex(function (row) { return row.id === view.open; }) : -1;
    const opened = place >= 0 ? rows[place] : all.rows.find(function (row) { return row.id === view.open; });
    const open = function (row, map) { last.current = row.id; put({ open: row.id, map: map ? String(map) : "" }); };
    const close = function () {
      const id = view.open;
      put({ open: "", map: "" });
      requestAnimationFrame(function () {
        const card = Array.from(document.querySelectorAll("#gallery .card"))
          .find(function (each) { return each.dataset.id === id; });
        if (card) { card.focus(); }
      });
    };
    const step = function (by) {
      const next = rows[place + by];
      if (next) { put({ open: next.id, map: "" }); if (place + by >= many) { setMany(many + PAGE); } }
    };
    useAddress(view, setView);
    useKeys({
      search: function () { search.current.focus(); search.current.select(); },
      help: function () { setHelp(true); },
      escape: function (target) {
        if (cnnviz.view.isFiltered(view)) { put(cnnviz.view.cleared(view)); } else { target.blur(); }
      },
      open: function (card) { open(rows.find(function (row) { return row.id === card.dataset.id; })); }
    });
    cnnviz.put = useStatic(view, put);
    return html`
      <${cnnviz.components.Toolbar} all=${all} runs=${runs} view=${view} count=${rows.length} put=${put}
        searchRef=${search} onHelp=${function () { setHelp(true); }} />
      <div class="cards">${rows.slice(0, many).map(function (row) {
        return html`<${cnnviz.components.Card} key=${row.id} row=${row} runs=${runs} view=${view} onOpen=${open} />`;
      })}</div>
      ${!rows.length && html`<p class="none">No image is left by these filters.</p>`}
      ${rows.length > many && html`<${More} count=${many} onSeen=${function () { setMany(many + PAGE); }} />`}
      ${opened && html`<${cnnviz.components.CloseUp} row=${opened} runs=${runs} map=${Number(view.map) || 0}
        look=${view.look || "over"} place=${Math.max(place, 0)} count=${Math.max(rows.length, 1)} onStep=${step}
        onMap=${function (map) { put({ map: map ? String(map) : "" }); }}
        onLook=${function (look) { put({ look: look === "over" ? "" : look }); }} onClose=${close} />`}
      ${help && html`<${cnnviz.components.Help} onClose=${function () { setHelp(false); }} />`}`;
  }

  /** Cells of the confusion table become buttons, the commands can be copied. */
  function enliven() {
    document.querySelectorAll("td[data-truth]").forEach(function (cell) {
      const count = cell.firstElementChild.tagName === "DETAILS"
        ? cell.querySelector("summary").textContent : cell.textContent;
      const button = document.createElement("button");
      const pair = cell.dataset;
      button.type = "button";
      button.textContent = count;
      button.title = pair.truth + " taken for " + pair.predicted;
      button.addEventListener("click", function () {
        const again = button.getAttribute("aria-pressed") === "true";
        const run = cell.closest("section.run").dataset.run;
        cnnviz.put.current({ truth: again ? "" : pair.truth, predicted: again ? "" : pair.predicted,
          run: again || cnnviz.data.all().length === 1 ? "" : run });
        document.getElementById("gallery").scrollIntoView();
      });
      cell.replaceChildren(button);
    });
    document.querySelectorAll("section.run header .command").forEach(function (code) {
      const run = cnnviz.data.all()[code.closest("section.run").dataset.run];
      const place = document.createElement("div");
      place.className = "copies";
      code.replaceWith(place);
      render(html`<${cnnviz.components.Command} text=${code.textContent} whole=${run.command} />`, place);
    });
  }

  document.addEventListener("DOMContentLoaded", function () {
    const runs = cnnviz.data.all(), place = document.getElementById("gallery");
    if (!place || !runs.length) { return; }
    const all = cnnviz.filter.prepared(runs), view = cnnviz.view.read(location.hash);
    const anchor = location.hash.indexOf("=") < 0 && location.hash.indexOf("#image-") === 0;
    if (anchor) { view.open = ""; }
    if (!location.hash && all.rows.some(function (row) { return row.checks; })) { view.sort = "worst"; }
    enliven();
    // A study of the network alone has no images to filter.
    if (!all.rows.length) { return; }
    place.replaceChildren();
    place.classList.add("live");
    render(html`<${App} all=${all} runs=${runs} view=${view} />`, place);
  });
})();
