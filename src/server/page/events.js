// What happens when: the page's own events, and its start.

function showBudget() {
  const policy = $("policy").value;
  $("budget").disabled = policy === "" || policy === "full";
  $("budget-value").textContent = policy === "" ? "as the server is set" : policy === "full" ? "everything" : $("budget").value + " %";
  showCostSoon();
}

function listen() {
  const drop = $("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();  // else the browser would open the file in this page's place
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length > 0) takeFile(event.dataTransfer.files[0]);
    });
  }
  $("file").onchange = () => { if ($("file").files.length > 0) takeFile($("file").files[0]); };
  $("cancel-upload").onclick = () => state.upload?.abort();
  $("remove").onclick = async () => {
    if (state.answering) return;
    await removeFile();
    $("file").focus();
  };
  $("policy").onchange = $("budget").oninput = showBudget;
  $("frames").oninput = showCostSoon;
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (state.answering || state.upload || !state.model || !question) return;
    $("question").value = "";
    ask(question);
  };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  };
  $("stop").onclick = () => state.answering?.abort();
  $("layer").oninput = $("head").onchange = () => { if (kept) drawKept(); };
  $("forget-key").onclick = () => {
    sessionStorage.removeItem(kKey);
    location.reload();
  };
}

async function start() {
  for (;;) {
    const response = await fetch("/health").catch(() => null);
    if (response?.ok) break;
    $("model").textContent = response ? "the model is being loaded …" : "the server cannot be reached";
    await new Promise((resume) => setTimeout(resume, 500));
  }
  const model = (await (await api("/v1/models")).json()).data[0];
  state.model = model.id;
  $("model").textContent = model.id + ", " + model.purekv.family;
  $("policy").replaceChildren(...model.purekv.policies.map((name) => option(name, name)), option("", "as the server is set"));
  $("policy").value = "purekv";
  show("forget-key", key() !== "");
  showBudget();
  await findFileAgain();
  document.documentElement.dataset.ready = "1";
}

listen();
start().catch((problem) => { $("model").textContent = problem.message; });
