/* How a map is made: the method, its options, the layer.

   Methods({methods, chosen, onChoose}), Options({options, values, onChange}), Layers({layers, chosen, onChoose,
   disabled, label, usual}): layers is null until they are known; chosen is null for the default; usual is the layer that
   the default came to, "" where that is not known. */
(function () {
  "use strict";
  const { html, useState } = htmPreact;

  function Methods(props) {
    const families = [];
    props.methods.forEach(function (method) {
      if (!families.includes(method.family)) { families.push(method.family); }
    });
    return html`<label class="field"><span>Method</span>
      <select name="method" value=${props.chosen} onChange=${function (event) { props.onChoose(event.target.value); }}>
        ${families.map(function (family) {
          return html`<optgroup key=${family} label=${family}>
            ${props.methods.filter(function (method) { return method.family === family; }).map(function (method) {
              return html`<option key=${method.name} value=${method.name} disabled=${Boolean(method.missing)}
                selected=${method.name === props.chosen}>
                ${method.title}${method.missing ? " (" + method.missing + ")" : ""}</option>`;
            })}
          </optgroup>`;
        })}
      </select></label>`;
  }

  /** Ends of a slider: those of the option, or what is usual around its default. */
  function ends(option) {
    const start = Array.isArray(option.default) ? option.default[0] : option.default;
    const low = option.minimum === null ? Math.min(0, start) : option.minimum;
    const high = option.maximum === null ? Math.max(4 * Math.abs(start), low + 10) : option.maximum;
    const whole = option.type !== "float";
    return { low: low, high: high, step: whole ? 1 : Math.max((high - low) / 200, 0.0001) };
  }

  function Field(props) {
    const { option, value, onChange } = props;
    const name = option.name.replaceAll("_", "-");
    const put = function (event) { onChange(event.target.value); };
    let input;
    if (option.type === "bool") {
      input = html`<input type="checkbox" name=${option.name} checked=${value}
        onChange=${function (event) { onChange(event.target.checked); }} />`;
    } else if (option.type === "choice") {
      input = html`<select name=${option.name} value=${value} onChange=${put}>
        ${option.choices.map(function (word) {
          return html`<option key=${word} value=${word} selected=${word === value}>${word}</option>`;
        })}</select>`;
    } else if (["int", "float", "size"].includes(option.type) && option.default !== null) {
      const number = Array.isArray(value) ? value[0] : value;
      const { low, high, step } = ends(option);
      const set = function (event) {
        const given = Number(event.target.value);
        if (event.target.value !== "" && Number.isFinite(given)) { onChange(given); }
      };
      input = html`<span class="both"><input type="range" aria-label=${name + " slider"} min=${low} max=${high}
        step=${step} value=${number} onInput=${set} />
        <input type="number" name=${option.name} min=${option.minimum} max=${option.maximum} step="any" value=${number}
        onChange=${set} /></span>`;
    } else {
      input = html`<input type="text" name=${option.name} value=${value === null ? "" : value} onChange=${put} />`;
    }
    return html`<label class="field option" title=${option.help}><span>${name}
      ${option.unit && html`<small> ${option.unit}</small>`}</span>${input}</label>`;
  }

  function Options(props) {
    if (!props.options.length) { return null; }
    return html`<details class="options" open=${props.options.length <= 8}><summary>Options of the method</summary>
      ${props.options.map(function (option) {
        const set = option.name in props.values;
        return html`<${Field} key=${option.name} option=${option}
          value=${set ? props.values[option.name] : option.default}
          onChange=${function (value) { props.onChange(option.name, value); }} />`;
      })}
      <button type="button" disabled=${!Object.keys(props.values).length} onClick=${props.onReset}>Defaults</button>
    </details>`;
  }

  function Layers(props) {
    const layers = props.layers || [];
    const at = layers.findIndex(function (layer) { return layer.name === props.chosen; });
    const usual = typeof props.usual === "string" ? props.usual
      : layers.filter(function (layer) { return layer.default; }).map(function (layer) { return layer.name; }).join(", ");
    const named = usual && " (" + usual + ")";
    const shape = at < 0 ? "" : layers[at].shape.join(" × ");
    const choose = function (place) { props.onChoose(place < 0 ? null : layers[place].name); };
    return html`<div class="field"><label><span>${props.label || "Layer"} <small>${shape}</small></span>
      <select name=${props.name || "layer"} disabled=${props.disabled || !props.layers} value=${props.chosen || ""}
        onChange=${function (event) { props.onChoose(event.target.value || null); }}>
        <option value="" selected=${!props.chosen}>default${named}</option>
        ${layers.map(function (layer, place) {
          return html`<option key=${place} value=${layer.name} selected=${layer.name === props.chosen}>
            ${layer.name} · ${layer.shape.join("×")}</option>`;
        })}
      </select></label>
      <input type="range" aria-label=${(props.label || "Layer") + " by depth"} min="-1" max=${layers.length - 1} step="1"
        value=${at} disabled=${props.disabled || !layers.length}
        onInput=${function (event) { choose(Number(event.target.value)); }} />
      ${props.disabled && html`<small class="facts">${props.disabled}</small>`}</div>`;
  }

  /** A class by name. */
  function ClassSearch(props) {
    const [text, setText] = useState("");
    const find = function (event) {
      event.preventDefault();
      const wanted = text.trim().toLowerCase();
      const names = props.classes.map(function (name) { return name.toLowerCase(); });
      let place = names.indexOf(wanted);
      if (place < 0) { place = names.findIndex(function (name) { return wanted && name.includes(wanted); }); }
      if (place < 0) { props.onMissing(text); return; }
      setText(props.classes[place]);
      props.onChoose(place);
    };
    return html`<form class="search" onSubmit=${find}>
      <input type="search" name="class" list="classes" placeholder="another class …" value=${text} aria-label="class"
        onInput=${function (event) { setText(event.target.value); }} />
      <datalist id="classes">${props.classes.map(function (name, place) {
        return html`<option key=${place} value=${name}></option>`;
      })}</datalist>
      <button type="submit">Explain</button></form>`;
  }

  Object.assign(cnnviz.components, { Methods: Methods, Options: Options, Layers: Layers, ClassSearch: ClassSearch });
})();
