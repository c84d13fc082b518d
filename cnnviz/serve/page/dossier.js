/* What a layer makes of the image, and what its units are.

   Dossier({image, layers, layer, onLayer, samples, onExplain}): layer is that of the units, null for the default one;
   onExplain gets a target. */
(function () {
  "use strict";
  const { html, useState, useEffect, useRef } = htmPreact;
  const { get, post, cancel, query, wrong } = cnnviz.asking;
  const { Layers, Slider } = cnnviz.components;
  const AGAIN = 350;

  function isGoing(job) { return job.state === "waiting" || job.state === "running"; }

  function stop(job) { if (isGoing(job)) { cancel("api/jobs/" + job.job).catch(function () {}); } }

  function Job(props) {
    const { job } = props;
    const going = isGoing(job);
    return html`<div class="job" role="status">
      <p class=${job.state === "failed" ? "error" : "facts"}>${going ? job.text || job.state : job.state === "done" ? "" : job.text}</p>
      ${going && html`<progress value=${job.share === null ? undefined : job.share} max="1"></progress>
        <button type="button" onClick=${function () { stop(job); }}>Cancel</button>`}
      ${job.state === "done" && job.result.figures.map(function (figure) {
        return html`<figure key=${figure.file} class="made"><img src=${"api/jobs/" + job.job + "/files/" +
          encodeURIComponent(figure.file)} alt=${figure.caption || job.kind} />
          ${figure.caption && html`<figcaption>${figure.caption}</figcaption>`}</figure>`;
      })}
      ${job.state === "done" && html`<${cnnviz.components.Command} text=${job.result.command} />`}
    </div>`;
  }

  function Unit(props) {
    const { image, layer, channel } = props;
    const [jobs, setJobs] = useState([]);
    const [steps, setSteps] = useState(64);
    const there = useRef(true);
    const running = useRef({});
    useEffect(function () {
      there.current = true;
      return function () {
        // Nobody sees any more what comes of them.
        there.current = false;
        Object.values(running.current).forEach(stop);
      };
    }, []);
    const put = function (job) {
      setJobs(function (old) { return old.filter(function (each) { return each.kind !== job.kind; }).concat([job]); });
    };
    const watch = function (job) {
      if (!there.current) { stop(job); return; }
      put(job);
      running.current[job.kind] = job;
      if (isGoing(job)) {
        setTimeout(function () { get("api/jobs/" + job.job).then(watch, failed(job.kind)); }, AGAIN);
      }
    };
    const failed = function (kind) {
      return function (error) {
        const said = wrong(error);
        put({ kind: kind, state: "failed", text: said.error + " " + (said.hint || "") });
      };
    };
    const start = function (kind, more) {
      if (running.current[kind]) { stop(running.current[kind]); }
      const body = Object.assign({ kind: kind, layer: layer, unit: channel }, more);
      post("api/jobs", body).then(watch, failed(kind));
    };
    const channelPng = "api/images/" + image.image + "/layer/" + channel + ".png" + query({ layer: layer, alpha: 0.6 });
    return html`<section class="unit" aria-label=${"unit " + channel}>
      <h3>Unit ${channel} of ${layer}</h3>
      <div class="picture"><div class="layers"><img src=${"api/images/" + image.image + "/photo.jpg"} alt="photograph" />
        <img class="above" src=${channelPng} alt=${"activation of channel " + channel} /></div></div>
      <div class="row">
        <button type="button" onClick=${function () { props.onExplain("unit:" + layer + ":" + channel); }}>
          Explain it on this image</button>
        <button type="button" onClick=${function () { start("top-patches", {}); }} disabled=${!props.samples}
          title=${props.samples ? "" : "start with a folder of images: cnnviz serve photos/"}>Top patches</button>
        <button type="button" onClick=${function () { start("synthesize", { steps: steps }); }}>Make an image for it</button>
        <${Slider} label="steps" min=${16} max=${512} step=${16} value=${steps} onInput=${setSteps} />
      </div>
      ${jobs.map(function (job) { return html`<${Job} key=${job.kind} job=${job} />`; })}
    </section>`;
  }

  function Dossier(props) {
    const { image, layer } = props;
    const [shown, setShown] = useState(null);
    const [channel, setChannel] = useState(null);
    const [error, setError] = useState(null);
    const [busy, setBusy] = useState(false);
    const [open, setOpen] = useState(false);
    useEffect(function () {
      if (!open) { return undefined; }
      let current = true;
      setBusy(true);
      get("api/images/" + image.image + "/layer" + query({ layer: layer })).then(function (found) {
        if (!current) { return; }
        setShown(found);
        setError(null);
        setBusy(false);
        setChannel(function (old) { return old !== null && old < found.channels && shown && shown.layer === found.layer
          ? old : found.strongest[0].channel; });
      }, function (refused) {
        const said = wrong(refused);
        if (!current || said.superseded) { return; }
        setError(said);
        setBusy(false);
      });
      return function () { current = false; };
    }, [open, image.image, layer]);
    const at = query({ layer: shown && shown.layer });
    const fresh = shown && shown.image === image.image;
    return html`<details class="dossier" open=${open} onToggle=${function (event) { setOpen(event.target.open); }}>
      <summary><h2>Unit dossier</h2></summary>
      <p class="facts">What the channels of a layer do on this image, what else they fire at, and what they would like to see.</p>
      <${Layers} layers=${props.layers} chosen=${layer} onChoose=${props.onLayer} label="Layer of the units" name="units" />
      ${busy && html`<p class="waiting" role="status">Computing …</p>`}
      ${error && html`<p class="error" role="alert">${error.error} ${error.hint}</p>`}
      ${fresh && html`<p class="facts">${shown.layer}: ${shown.channels} channels of ${shown.size[0]} × ${shown.size[1]},
        ${shown.silent} silent, ${cnnviz.words.percent(shown.sparsity)} of all values zero. Strongest by mean:</p>
        <div class="channels">${shown.strongest.map(function (each) {
          const png = "api/images/" + image.image + "/layer/" + each.channel + ".png" + query({ layer: shown.layer, alpha: 0.6 });
          return html`<button type="button" key=${each.channel} aria-pressed=${String(each.channel === channel)}
            onClick=${function () { setChannel(each.channel); }}>
            <span class="layers"><img src=${"api/images/" + image.image + "/photo.jpg"} alt="" loading="lazy" />
              <img class="above" src=${png} alt="" loading="lazy" /></span>
            ${each.channel} <small>${cnnviz.words.short(each.max)}</small></button>`;
        })}</div>
        <label class="field"><span>Any channel</span><input type="number" name="channel" min="0" max=${shown.channels - 1}
          value=${channel} onChange=${function (event) {
            const given = Number(event.target.value);
            if (Number.isInteger(given) && given >= 0 && given < shown.channels) { setChannel(given); }
          }} /></label>
        ${channel !== null && html`<${Unit} key=${shown.layer + ":" + channel + ":" + image.image} image=${image}
          layer=${shown.layer} channel=${channel} samples=${props.samples} onExplain=${props.onExplain} />`}
        <details><summary>All channels</summary><img class="all" loading="lazy" alt=${"all channels of " + shown.layer}
          src=${"api/images/" + image.image + "/layer/channels.png" + at} /></details>
        <${cnnviz.components.Command} text=${shown.command} />`}
    </details>`;
  }

  cnnviz.components.Dossier = Dossier;
})();
