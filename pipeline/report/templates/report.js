"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (where, what) => [...where.querySelectorAll(what)];
  const said = new Map(Object.entries(data.verdicts).map(([id, verdict]) => [id, { verdict, note: "" }]));
  const of = (id) => said.get(id) || { verdict: "", note: "" };
  const judged = new Set(Object.keys(data.items));
  let cards = all(document, ".card");
  let here = null;
  let unsaved = false;

  // --- verdicts: kept here, shown wherever their defect is

  function judge(id, change) {
    if (!judged.has(id)) return;
    said.set(id, { ...of(id), ...change });
    unsaved = true;
    show(id);
    count();
  }

  function show(id) {
    const { verdict, note } = of(id);
    for (const button of all(document, `[data-id="${CSS.escape(id)}"] [data-verdict]`)) {
      if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    }
    for (const cell of all(document, `[data-said="${CSS.escape(id)}"]`)) {
      cell.textContent = verdict;
      cell.dataset.verdict = verdict;
    }
    for (const input of all(document, `[data-note="${CSS.escape(id)}"]`)) if (input.value !== note) input.value = note;
  }

  function count() {
    const given = [...said.values()].map((s) => s.verdict);
    const [yes, no] = ["accept", "reject"].map((v) => given.filter((g) => g === v).length);
    document.querySelector(".tally").textContent = `${yes + no} of ${judged.size} judged: ${yes} accepted, ${no} rejected`;
    document.querySelector('[data-do="save"]').disabled = yes + no === 0;
  }

  // --- files

  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const line = (cells) => cells.map(cell).join(",") + "\n";

  function table() {
    const tail = { verdict: (id) => of(id).verdict, note: (id) => of(id).note.replace(/\s+/g, " "), plan: () => data.plan };
    const rows = [...Object.entries(data.items), ["", data.rest]]
      .flatMap(([id, items]) => items.map((item) => line([...item, ...data.tail.map((key) => tail[key](id))])));
    return data.before + line([...data.header, ...data.tail]) + rows.join("");
  }

  function download(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function shown() {
    const rows = all(document, "table.defects tr");
    return rows.map((row) => {
      const verdict = row.dataset.id ? of(row.dataset.id).verdict : "verdict";
      return line([...all(row, "td, th").slice(0, -1).map((c) => c.textContent.trim()), verdict]);
    }).join("");
  }

  function parsed(text) {
    const rows = [[""]];
    let quoted = false;
    for (let i = 0; i < text.length; i++) {
      const row = rows[rows.length - 1];
      if (quoted) {
        if (text[i] !== '"') row[row.length - 1] += text[i];
        else if (text[i + 1] === '"') row[row.length - 1] += text[i++];
        else quoted = false;
      } else if (text[i] === '"') quoted = true;
      else if (text[i] === ",") row.push("");
      else if (text[i] === "\n") rows.push([""]);
      else if (text[i] !== "\r") row[row.length - 1] += text[i];
    }
    return rows.filter((row) => row.length > 1);
  }

  function open(text) {
    const [header, ...rows] = parsed(text);
    const at = Object.fromEntries((header || []).map((name, i) => [name, i]));
    if (!["defect", "verdict", "note", "plan"].every((name) => name in at)) return "This is no file of verdicts.";
    if (rows.some((row) => row[at.plan] !== data.plan)) return "These verdicts are of another plan than this page.";
    for (const row of rows) judge(row[at.defect], { verdict: row[at.verdict], note: row[at.note] });
    unsaved = false;
    return "";
  }

  // --- going from one to the next

  function go(card) {
    if (!card) return;
    if (here) here.classList.remove("here");
    here = card;
    here.classList.add("here");
  }

  function current() {
    const seen = (card) => {
      const box = card.getBoundingClientRect();
      return !card.hidden && box.bottom > 0 && box.top < innerHeight;
    };
    return here && seen(here) ? here : cards.find(seen) || null;
  }

  function step(by) {
    const open = cards.filter((card) => !card.hidden);
    const from = current();
    const to = from === here && from ? open[open.indexOf(from) + by] : from || open[0];
    if (!to) return;
    go(to);
    to.focus({ preventScroll: true });
    to.scrollIntoView({ block: to.classList.contains("flag") ? "nearest" : "start" });
  }

  function slide(card, to) {
    const input = card && card.querySelector(".compare input");
    if (!input) return;
    input.value = to(Number(input.value));
    input.dispatchEvent(new Event("input"));
  }

  const keys = {
    n: () => step(1),
    p: () => step(-1),
    a: () => press("accept"),
    r: () => press("reject"),
    u: () => current() && judge(current().dataset.id, { verdict: "" }),
    f: () => slide(current(), (at) => (at < 50 ? 100 : 0)),
    ArrowLeft: () => slide(current(), (at) => at - 10),
    ArrowRight: () => slide(current(), (at) => at + 10),
    m: () => document.body.classList.toggle("plainly"),
    "?": () => document.getElementById("help").showModal(),
  };

  function press(verdict) {
    const card = current();
    if (!card) return;
    go(card);
    judge(card.dataset.id, { verdict });
    step(1);
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  addEventListener("click", (event) => {
    const button = event.target.closest("button[data-verdict]");
    if (button) {
      const id = button.closest("[data-id]").dataset.id;
      judge(id, { verdict: of(id).verdict === button.dataset.verdict ? "" : button.dataset.verdict });
    }
    go(event.target.closest(".card"));
  });

  addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });

  for (const input of all(document, "[data-note]")) {
    input.addEventListener("input", () => judge(input.dataset.note, { note: input.value }));
  }

  const doing = {
    save: (node) => node.addEventListener("click", () => { download(data.file, table()); unsaved = false; }),
    table: (node) => node.addEventListener("click", () => download(data.table, shown())),
    open: (node) => node.addEventListener("change", async () => {
      const why = node.files[0] ? open(await node.files[0].text()) : "";
      node.value = "";
      if (why) alert(why);
    }),
    class: (node) => node.addEventListener("change", () => {
      for (const card of cards) card.hidden = Boolean(node.value) && card.dataset.class !== node.value;
    }),
    order: (node) => node.addEventListener("change", () => {
      const rank = new Map(original.map((card, i) => [card, node.value === "place" ? Number(card.dataset.place) : i]));
      cards = [...cards].sort((a, b) => rank.get(a) - rank.get(b));
      cards[0].parentNode.append(...cards);
    }),
  };
  const original = [...cards];
  for (const node of all(document, "[data-do]")) doing[node.dataset.do](node);

  // --- before and after: the strip's own pictures, one over the other

  for (const card of cards) {
    const compare = card.querySelector(".compare");
    const [below, above] = ["damaged", "restored"].map((part) => card.querySelector(`[data-part="${part}"] img`));
    if (!compare || !below || !above) continue;
    compare.querySelector(".below").src = below.src;
    compare.querySelector(".above").src = above.src;
    const frame = compare.querySelector(".frame");
    const input = compare.querySelector("input");
    const move = () => frame.style.setProperty("--at", `${input.value}%`);
    const point = (event) => {
      const box = frame.getBoundingClientRect();
      input.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      move();
    };
    input.addEventListener("input", move);
    frame.addEventListener("pointerdown", (event) => { frame.setPointerCapture(event.pointerId); point(event); });
    frame.addEventListener("pointermove", (event) => event.buttons && point(event));
    compare.hidden = false;
    move();
  }

  for (const id of said.keys()) show(id);
  document.querySelector(".bar").hidden = judged.size === 0;
  count();
})();
