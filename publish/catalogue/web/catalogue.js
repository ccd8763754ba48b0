// Copy buttons. The clipboard of the browser is only there over TLS or on
// localhost; elsewhere the text is selected and copied the old way.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    let copied = false;
    if (navigator.clipboard) {
      copied = await navigator.clipboard.writeText(code.textContent).then(() => true, () => false);
    }
    if (!copied) {
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll(".packages tbody tr")];
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("count").textContent = shown;
  });
}
