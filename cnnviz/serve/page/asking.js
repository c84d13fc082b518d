/* Requests to the server, and what goes wrong with them, in words. */
(function () {
  "use strict";

  // Tabs do not drop each other's requests.
  const tab = Math.random().toString(36).slice(2, 14);

  /** An answer that is no success: {error, hint, superseded}. */
  function Refused(answer) { this.answer = answer; }

  function unreachable() {
    return new Refused({ error: "The server does not answer.", hint: "Was it ended? Start cnnviz serve again." });
  }

  async function ask(path, options) {
    const all = Object.assign({ credentials: "same-origin" }, options);
    all.headers = Object.assign({ "x-cnnviz-tab": tab }, all.headers);
    let answer;
    try { answer = await fetch(path, all); } catch (_) { throw unreachable(); }
    const isJson = (answer.headers.get("content-type") || "").startsWith("application/json");
    let body;
    try { body = isJson ? await answer.json() : { error: (await answer.text()).trim(), hint: "" }; } catch (_) { throw unreachable(); }
    if (!answer.ok) { throw new Refused(body); }
    return body;
  }

  function post(path, body, signal) {
    return ask(path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: signal
    });
  }

  /** A query of what is given and not empty. */
  function query(given) {
    const made = new URLSearchParams();
    Object.keys(given).forEach(function (name) {
      if (given[name] !== null && given[name] !== undefined && given[name] !== "") { made.set(name, given[name]); }
    });
    const text = made.toString();
    return text ? "?" + text : "";
  }

  cnnviz.asking = {
    get: function (path) { return ask(path); },
    post: post,
    cancel: function (path) { return ask(path, { method: "DELETE" }); },
    upload: function (file) {
      return ask("api/images" + query({ name: file.name || "dropped" }), { method: "POST", body: file });
    },
    query: query,
    wrong: function (error) {
      return error instanceof Refused ? error.answer : { error: String(error && error.message || error), hint: "" };
    }
  };
})();
