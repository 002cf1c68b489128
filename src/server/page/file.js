// The file that is asked about: dropped or picked, uploaded, removed.

function fileProblem(text) {
  $("file-problem").textContent = text;
  show("file-problem", text !== "");
}

function showFile() {
  show("choose", !state.file && !state.upload);
  show("uploading", state.upload !== null);
  show("uploaded", state.file !== null);
  if (state.file) {
    $("file-name").textContent = state.file.name;
    $("file-size").textContent = bytes(state.file.bytes);
  }
  $("frames").disabled = state.file !== null && state.file.image;
  state.file ? sessionStorage.setItem(kFile, JSON.stringify(state.file)) : sessionStorage.removeItem(kFile);
  showCostSoon();
}

// fetch() does not tell how much of a body has gone.
function sendFile(file) {
  const request = new XMLHttpRequest();
  state.upload = request;
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", "vision");
    form.append("file", file);
    request.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(withKey({}))) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) $("upload-progress").value = event.loaded / event.total;
    };
    request.onload = () => {
      if (request.status === 200) return resolve(request.response);
      reject(new Error(request.response?.error?.message ?? "the server answers " + request.status));
    };
    request.onerror = () => reject(new Error("The upload broke off: the server ended it, or cannot be reached."));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    request.send(form);
  });
}

async function takeFile(file) {
  if (state.upload || state.answering) return fileProblem("One thing at a time: this file was not taken.");
  fileProblem("");
  try {
    await api("/v1/models");  // is the key good? A large body would not be read to its end to hear that
    await removeFile();
    $("upload-name").textContent = "Uploading " + file.name;
    $("upload-progress").value = 0;
    const sent = sendFile(file);
    showFile();
    $("cancel-upload").focus();
    const stored = await sent;
    state.file = {id: stored.id, name: file.name, bytes: stored.bytes, image: file.type.startsWith("image/")};
  } catch (problem) {
    fileProblem(problem.name === "AbortError" ? "The upload was cancelled." : problem.message);
  }
  state.upload = null;
  $("file").value = "";
  showFile();
  (state.file ? $("question") : $("file")).focus();
}

// The server forgets the file and what was read of it.
async function removeFile() {
  const gone = [...state.prefixes].map((id) => "/v1/purekv/prefixes/" + id);
  if (state.file) gone.push("/v1/files/" + state.file.id);
  state.file = null;
  state.turns = [];
  state.prefixes.clear();
  hideKept();
  showFile();
  for (const path of gone) await api(path, {method: "DELETE"}).catch(() => {});  // gone already
}

async function findFileAgain() {
  const text = sessionStorage.getItem(kFile);
  if (!text) return;
  const file = JSON.parse(text);
  try {
    await api("/v1/files/" + encodeURIComponent(file.id));
    state.file = file;
  } catch { /* the server has been started anew */ }
  showFile();
}
