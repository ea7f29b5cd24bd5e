// Copying a recipe and opening a report: what only the page can do.

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No permission, or a page that is not served securely: the older way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.appendChild(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("This browser does not let the page copy.");
  }
}

function frame(html) {
  // The report runs in a frame without this page's rights, whatever is written in it.
  const page = document.implementation.createHTMLDocument("workbench report");
  const inner = page.createElement("iframe");
  inner.setAttribute("sandbox", "allow-scripts");
  inner.setAttribute("title", "report");
  inner.setAttribute("srcdoc", html);
  inner.setAttribute("style", "position:fixed;inset:0;width:100%;height:100%;border:0");
  page.body.appendChild(inner);
  const text = "<!doctype html>" + page.documentElement.outerHTML;
  return URL.createObjectURL(new Blob([text], { type: "text/html" }));
}

function render({ model, el }) {
  el.classList.add("wb-takeaway");
  let waiting = null;

  function button(words, title, act) {
    const made = document.createElement("button");
    made.className = "jupyter-button widget-button";
    made.textContent = words;
    made.title = title;
    made.addEventListener("click", () => act(made));
    el.appendChild(made);
    return made;
  }

  async function give(made, words, text) {
    if (!text) return model.send({ kind: "refused" });
    try {
      await copy(text);
      made.textContent = "Copied ✓";
      model.send({ kind: "copied", what: words });
    } catch (error) {
      made.textContent = "Not copied";
      model.send({ kind: "shown", what: words });
    }
    setTimeout(() => (made.textContent = words), 1500);
  }

  button("Copy code", "Copy a snippet of Python that runs this recipe", (made) =>
    give(made, "Copy code", model.get("code")));
  button("Copy link", "Copy one short text that holds every choice; wb.panel(\"workbench:…\") opens it",
    (made) => give(made, "Copy link", model.get("link")));
  const report = button("Report", "Write the run's report and open it in a new tab", () => {
    waiting = window.open("", "_blank"); // in the click itself, or the browser would block it
    if (waiting) waiting.document.write("Writing the report…");
    model.send({ kind: "report" });
  });
  const enable = () => (report.disabled = !model.get("reportable"));
  model.on("change:reportable", enable);
  enable();

  function onMessage(message, buffers) {
    if (message.kind === "report") {
      const address = frame(new TextDecoder().decode(buffers[0]));
      if (waiting) waiting.location = address;
      else window.open(address, "_blank");
    } else if (waiting) waiting.close();
    waiting = null;
  }
  model.on("msg:custom", onMessage);
  return () => {
    model.off("msg:custom", onMessage);
    model.off("change:reportable", enable);
  };
}

export default { render };
