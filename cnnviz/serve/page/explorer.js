/* The live explorer: what is chosen, and what is asked of the server when it changes. */
(function () {
  "use strict";
  const { html, render, useState, useEffect, useRef } = htmPreact;
  const { get, post, upload, cancel, query, wrong } = cnnviz.asking;
  const { Stage, Methods, Options, Layers, ClassSearch, Predictions, Slider, Tabs, Command, Dossier } = cnnviz.components;
  const WAIT = 120;

  function Problem(props) {
    if (!props.error) { return null; }
    return html`<p class="error" role="alert">${props.error.error} ${props.error.hint}</p>`;
  }

  /** How long the last request has been going on, in words; nothing for what is quick. */
  function Busy(props) {
    const [seconds, setSeconds] = useState(0);
    useEffect(function () {
      setSeconds(0);
      if (!props.since) { return undefined; }
      const timer = setInterval(function () { setSeconds(Math.round((Date.now() - props.since) / 1000)); }, 500);
      return function () { clearInterval(timer); };
    }, [props.since]);
    const text = !props.since ? "" : seconds < 2 ? "Computing …" : "Computing for " + seconds + " s …";
    return html`<p class="waiting" role="status">${text}
      ${props.since && props.onStop && html`${" "}<button type="button" onClick=${props.onStop}>Stop</button>`}</p>`;
  }

  function Samples(props) {
    const row = useRef(null);
    const reveal = function () {
      const chosen = row.current && row.current.querySelector("[aria-pressed=true]");
      if (!chosen) { return; }
      // Along the row alone: scrollIntoView would move the page too.
      const there = chosen.getBoundingClientRect();
      const room = row.current.getBoundingClientRect();
      row.current.scrollLeft += Math.min(0, there.left - room.left) + Math.max(0, there.right - room.right);
    };
    useEffect(reveal, [props.chosen, props.samples.length]);
    if (!props.samples.length) { return null; }
    const shown = props.samples.find(function (sample) { return sample.image === props.chosen; });
    return html`<div class="samples" aria-label="images" ref=${row}>${props.samples.map(function (sample) {
      return html`<button type="button" key=${sample.image} title=${sample.name}
        aria-pressed=${String(props.chosen === sample.image)} onClick=${function () { props.onChoose(sample.image); }}>
        <img src=${"api/images/" + sample.image + "/thumbnail.jpg"} alt=${sample.name} loading="lazy"
          onLoad=${props.chosen === sample.image ? reveal : null} /></button>`;
    })}</div>${shown && html`<p class="facts shown">${shown.name}</p>`}`;
  }

  function figureOf(row) {
    const words = [];
    if (typeof row.area === "number") { words.push(cnnviz.words.percent(row.area) + " of the image"); }
    if (typeof row.value === "number") { words.push(cnnviz.words.short(row.value)); }
    return words.join(", ");
  }

  /** What speaks for the class that is explained rather than for another one of the list. */
  function Rather(props) {
    const class_ = /^(?:diff:)?(?:class:)?(\d+)(?:,(\d+))?$/.exec(props.chosen || "");
    if (!class_) { return null; }
    const others = props.image.targets.filter(function (row) { return row.target !== "class:" + class_[1]; });
    const put = function (event) {
      const other = event.target.value;
      props.onChoose(other ? "diff:" + class_[1] + "," + other : "class:" + class_[1]);
    };
    return html`<label class="field"><span>rather than</span><select name="rather" onChange=${put}>
      <option value="" selected=${!class_[2]}></option>
      ${others.map(function (row) {
        return html`<option key=${row.target} value=${row.class_index} selected=${String(row.class_index) === class_[2]}>
          ${row.label}</option>`;
      })}</select></label>`;
  }

  /** What can be asked of the image, as buttons. */
  function Asked(props) {
    const kindOf = function (row) { return row.target.split(":")[0]; };
    const words = props.image.targets.filter(function (row) { return kindOf(row) === "token"; });
    const rows = props.image.targets.filter(function (row) { return kindOf(row) !== "token"; });
    return html`${words.length > 0 && html`<p class="words">${words.map(function (row) {
      return html`<button type="button" key=${row.target} aria-pressed=${String(row.target === props.chosen)}
        title=${row.target + ", " + cnnviz.words.percent(row.probability)}
        onClick=${function () { props.onChoose(row.target); }}>${row.label}</button>`;
    })}</p>`}<${Predictions} rows=${rows.map(function (row) {
      const label = kindOf(row) === "class" ? row.label : row.target + " " + row.label;
      return { label: label, probability: row.probability, note: figureOf(row) };
    })} chosen=${rows.findIndex(function (row) { return row.target === props.chosen; })}
      onChoose=${function (place) { props.onChoose(rows[place].target); }} />`;
  }

  function Facts(props) {
    const { map } = props;
    const made = map.record.explanations[0];
    const target = made.target;
    const rows = [
      ["target", target.label + (target.kind && target.spec ? " (" + target.spec + ")" : "")],
      ["probability", cnnviz.words.percent(target.probability)],
      ["logit", typeof target.logit === "number" ? cnnviz.words.short(target.logit) : ""],
      ["score", typeof target.score === "number" ? cnnviz.words.short(target.score) : ""],
      ["layer", made.layer],
      ["colours from", cnnviz.words.short(map.limits[0]) + " to " + cnnviz.words.short(map.limits[1])],
      ["peak", made.scores.peak ? made.scores.peak.join(", ") : ""]
    ];
    return html`<div>
      <dl class="scores">${rows.filter(function (row) { return row[1]; }).map(function (row) {
        return html`<div key=${row[0]}><dt>${row[0]}</dt><dd>${row[1]}</dd></div>`;
      })}</dl>
      ${made.flat_reason && html`<p class="error">${made.flat_reason}</p>`}
      ${made.trivial_reason && html`<p class="error">${made.trivial_reason}</p>`}
      ${map.notes.map(function (note) { return html`<p class="facts" key=${note}>${note}</p>`; })}
    </div>`;
  }

  function Downloads(props) {
    const at = "api/results/" + props.map.result + "/download/";
    const drawn = query({ colormap: props.colormap, alpha: props.alpha });
    return html`<p class="links">Download${" "}
      <a href=${at + "overlay" + drawn} download>PNG</a>
      <a href=${at + "heatmap" + drawn} download>heatmap</a>
      <a href=${at + "raw"} download>raw .npz</a></p>`;
  }

  /** Images by choosing or dropping a file. */
  function Drop(props) {
    const [over, setOver] = useState(false);
    const input = useRef(null);
    useEffect(function () {
      const take = function (event) {
        event.preventDefault();
        setOver(event.type === "dragover");
        if (event.type === "drop" && event.dataTransfer.files.length) { props.onFile(event.dataTransfer.files[0]); }
      };
      const kinds = ["dragover", "dragleave", "drop"];
      kinds.forEach(function (kind) { window.addEventListener(kind, take); });
      return function () { kinds.forEach(function (kind) { window.removeEventListener(kind, take); }); };
    }, []);
    const chosen = function (event) {
      if (event.target.files.length) { props.onFile(event.target.files[0]); }
      event.target.value = "";
    };
    return html`<p class=${"drop" + (over ? " over" : "")}>
      <button type="button" onClick=${function () { input.current.click(); }}>Open an image …</button>${" "}
      <span>or drop one on the page</span>
      <input type="file" accept="image/*" ref=${input} onChange=${chosen} hidden /></p>`;
  }

  /** The latest answer to what is asked last: [answer, error, since when it is being computed, stops it, asks it again]. */
  function useLatest(ask, parts) {
    const [state, setState] = useState([null, null, null]);
    const [turn, setTurn] = useState(0);
    const stop = useRef(function () {});
    useEffect(function () {
      const asked = ask();
      if (!asked) { return undefined; }
      let current = true;
      const ended = new AbortController();
      setState(function (old) { return [old[0], old[1] && old[1].stopped ? null : old[1], Date.now()]; });
      const timer = setTimeout(function () {
        asked(ended.signal).then(function (answer) {
          if (current) { setState([answer, null, null]); }
        }, function (error) {
          const said = wrong(error);
          if (current && !said.superseded) { setState(function (old) { return [old[0], said, null]; }); }
        });
      }, WAIT);
      const end = function () { current = false; clearTimeout(timer); ended.abort(); };
      stop.current = function () {
        end();
        setState(function (old) { return [old[0], { error: "Stopped.", hint: "", stopped: true }, null]; });
      };
      return end;
    }, parts.concat([turn]));
    return state.concat([function () { stop.current(); }, function () { setTurn(function (old) { return old + 1; }); }]);
  }

  function Explorer(props) {
    const { model, asIn } = props;
    const [layers, setLayers] = useState(null);
    const [image, setImage] = useState(null);
    const [loading, setLoading] = useState(null);
    const [error, setError] = useState(null);
    const [target, setTarget] = useState(null);
    const [uploads, setUploads] = useState([]);
    const [near, setNear] = useState([]);
    const [name, setName] = useState(model.methods.some(function (each) { return each.name === asIn.method && !each.missing; })
      ? asIn.method : model.default_method);
    const [options, setOptions] = useState({});
    const [layer, setLayer] = useState(asIn.layer || null);
    const [units, setUnits] = useState(null);
    const [score, setScore] = useState("logit");
    const [colormap, setColormap] = useState("auto");
    const [alpha, setAlpha] = useState(0.5);
    const [mode, setMode] = useState("over");
    const method = model.methods.find(function (each) { return each.name === name; });
    const usedLayer = method.layer || options.with_gradcam ? layer : null;

    const failed = function (refused) {
      const said = wrong(refused);
      setLoading(null);
      if (!said.superseded) { setError(said); }
    };
    const show = function (found) {
      setLoading(null);
      setError(null);
      setNear([]);
      setTarget(null);
      setImage(found);
    };
    const open = function (key) {
      setLoading(Date.now());
      get("api/images/" + key).then(show, failed);
    };
    const take = function (file) {
      setLoading(Date.now());
      upload(file).then(function (found) {
        setUploads(function (old) {
          return old.filter(function (each) { return each.image !== found.image; })
            .concat([{ image: found.image, name: found.name }]);
        });
        show(found);
      }, failed);
    };
    useEffect(function () {
      get("api/layers").then(function (found) { setLayers(found.layers); }, failed);
      const first = model.samples.length ? function () { open(model.samples[0].image); } : function () { setLoading(null); };
      if (!asIn.image) { first(); return; }
      // The address of a view; of an image that is not here any more, the first one.
      setLoading(Date.now());
      get("api/images/" + encodeURIComponent(asIn.image)).then(function (found) {
        show(found);
        setTarget(asIn.target || null);
        if (model.samples.every(function (sample) { return sample.image !== found.image; })) {
          setUploads([{ image: found.image, name: found.name }]);
        }
      }, first);
    }, []);

    const asked = image && { image: image.image, method: name, options: options, layer: usedLayer, target: target, score: score };
    const [map, problem, since, stopAsking, askAgain] = useLatest(function () {
      return asked && function (signal) { return post("api/explain", asked, signal); };
    }, [JSON.stringify(asked)]);

    useEffect(function () {
      if (!image) { return; }
      const view = { image: image.image, method: name, layer: usedLayer, target: target };
      history.replaceState(null, "", location.pathname + query(view).replace("?", "#"));
    }, [image && image.image, name, usedLayer, target]);

    // What was refused before is no answer to what is asked now.
    useEffect(function () { setError(null); }, [JSON.stringify(asked), units]);
    const stop = function () { setError(null); stopAsking(); cancel("api/explain").catch(function () {}); };
    const choose = function (spec) { setNear([]); setError(null); setTarget(spec); };
    const place = function (x, y) {
      get("api/images/" + image.image + "/at" + query({ x: x.toFixed(2), y: y.toFixed(2), layer: units }))
        .then(function (found) {
          setError(null);
          setNear(found.asked);
          setTarget(found.asked[0].target);
        }, failed);
    };
    const boxes = !image ? [] : image.targets.filter(function (row) { return row.target.startsWith("box:") && row.box_xywh; })
      .map(function (row) { return { target: row.target, number: row.target.slice(4), label: row.target.slice(4) + " " + row.label, box: row.box_xywh }; });
    // Beside a refusal no map stands that answers an earlier question.
    const own = map && !problem && image && map.record.name === image.name && map.asked === image.image ? map : null;

    const strip = model.samples.concat(uploads.filter(function (each) {
      return model.samples.every(function (sample) { return sample.image !== each.image; });
    }));
    // Below a neuron or unit another layer is the usual one than for a class: the map says which.
    const usual = since || layer ? null : own ? own.record.explanations[0].layer : /^(neuron|unit):/.test(target) ? "" : null;
    const chosen = target || (own && own.record.explanations[0].target.spec);

    return html`<div class="explorer">
      <header><h1>${model.model.name}</h1>
        <p>${model.task.name}, ${model.model.num_classes} classes, input ${model.model.input_size.join(" × ")},
          view ${model.view}, ${model.environment.device}</p></header>
      <div class="columns">
        <section class="look" aria-label="image and map">
          <${Drop} onFile=${take} />
          <${Samples} samples=${strip} chosen=${image && image.image} onChoose=${open} />
          <${Problem} error=${error} />
          <${Busy} since=${loading || since} onStop=${since && !loading ? stop : null} />
          ${image && html`<${Stage} key=${image.image} image=${image} map=${own} alpha=${alpha} colormap=${colormap} mode=${mode}
            boxes=${boxes} chosen=${chosen} busy=${Boolean(since)} onPlace=${place} />
            <div class="row">
              <${Tabs} label="view" chosen=${mode} onChoose=${setMode}
                items=${[{ key: "over", text: "Map" }, { key: "slider", text: "Compare" }, { key: "photo", text: "Photograph" }]} />
              <${Slider} label="opacity" min=${0} max=${1} step=${0.05} value=${alpha} text=${Math.round(100 * alpha) + " %"}
                onInput=${setAlpha} />
              <label class="field inline"><span>colours</span><select name="colormap" value=${colormap}
                onChange=${function (event) { setColormap(event.target.value); }}>
                ${model.colormaps.map(function (each) {
                  return html`<option key=${each} value=${each} selected=${each === colormap}>${each}</option>`;
                })}</select></label>
            </div>
            <${Problem} error=${problem} />
            ${problem && problem.stopped && html`<button type="button" onClick=${askAgain}>Ask again</button>`}
            ${own && html`<${Facts} map=${own} /><${Downloads} map=${own} colormap=${colormap} alpha=${alpha} />
              <${Command} text=${own.command + drawing(alpha, colormap)} />`}`}
        </section>
        <section class="ask" aria-label="what is explained, and how">
          ${image && html`<div class="panel"><h2>What to explain</h2>
            <button type="button" aria-pressed=${String(target === null)} onClick=${function () { choose(null); }}>
              what is predicted</button>
            ${near.length > 0 && html`<div class="near"><h3>At this place</h3>${near.map(function (each) {
              return html`<button type="button" key=${each.target} aria-pressed=${String(each.target === target)}
                onClick=${function () { setTarget(each.target); }}>${each.label}</button>`;
            })}</div>`}
            <${Asked} image=${image} chosen=${target} onChoose=${choose} />
            ${model.task.name === "classify" && html`<${Rather} image=${image} chosen=${target} onChoose=${choose} />`}
            ${image.targets.length === 0 && html`<p class="facts">The network finds nothing in this image.</p>`}
            ${model.classes.length > 0 && ["classify", "segment"].includes(model.task.name) && html`<${ClassSearch} classes=${model.classes}
              onChoose=${function (index) { choose("class:" + index); }}
              onMissing=${function (text) { setError({ error: "No class is called " + JSON.stringify(text) + ".", hint: "" }); }} />`}
          </div>`}
          <div class="panel"><h2>How</h2>
            <${Methods} methods=${model.methods} chosen=${name}
              onChoose=${function (chosen) { setName(chosen); setOptions({}); }} />
            <p class="facts">${method.summary}</p>
            <${Options} options=${method.options} values=${options} onReset=${function () { setOptions({}); }}
              onChange=${function (key, value) {
                setOptions(function (old) { return Object.assign({}, old, { [key]: value }); });
              }} />
            <${Layers} layers=${layers} chosen=${layer} usual=${usual} onChoose=${setLayer}
              disabled=${usedLayer === null && !method.layer ? method.title + " looks at no layer" : ""} />
            <label class="field"><span>Score</span><select name="score" value=${score}
              onChange=${function (event) { setScore(event.target.value); }}>
              ${["logit", "probability", "log-probability"].map(function (each) {
                return html`<option key=${each} value=${each} selected=${each === score}>${each}</option>`;
              })}</select></label>
          </div>
        </section>
      </div>
      ${image && html`<${Dossier} image=${image} layers=${layers} layer=${units} onLayer=${setUnits} samples=${model.samples.length} onExplain=${choose} />`}
      ${model.notes.length > 0 && html`<details class="notes"><summary>Notes on the network</summary>
        ${model.notes.map(function (note) { return html`<p class="facts" key=${note}>${note}</p>`; })}</details>`}
    </div>`;
  }

  /** What of the drawing is not at its default, as a command has it. */
  function drawing(alpha, colormap) {
    return (colormap === "auto" ? "" : " --colormap " + colormap) + (alpha === 0.5 ? "" : " --alpha " + alpha);
  }

  function Start() {
    const [asIn] = useState(function () { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); });
    const [model, setModel] = useState(null);
    const [error, setError] = useState(null);
    useEffect(function () {
      // The token has done its work: the cookie has it now.
      history.replaceState(null, "", location.pathname + location.hash);
      get("api/model").then(setModel, function (refused) { setError(wrong(refused)); });
    }, []);
    if (error) { return html`<${Problem} error=${error} />`; }
    if (!model) { return html`<p class="waiting" role="status">Loading …</p>`; }
    return html`<${Explorer} model=${model} asIn=${asIn} />`;
  }

  const root = document.getElementById("explorer");
  root.textContent = "";
  render(html`<${Start} />`, root);
})();
