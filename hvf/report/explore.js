// One image at a time of one run, or of two beside each other; images of two runs are matched by their ids.
const $ = id => document.getElementById(id);
const make = (tag, text = "", cls = "") => Object.assign(document.createElement(tag), { textContent: text, className: cls });
const narrow = matchMedia("(max-width: 760px)"); // a phone sees the picture first, the names in a drawer
const fold = () => { $("drawer").open = !narrow.matches; };
let runs, order = [], at = 0;

const picture = (run, stage, index, round, alt) => {
  const image = make("img");
  image.src = `/picture/${run}/${stage}/${index}/${round}.png`;
  image.alt = alt;
  image.loading = "lazy";
  return image;
};

const list = () => {
  const first = runs[0], key = $("sort").value, down = $("worst").getAttribute("aria-pressed") === "true";
  const wanted = $("find").value.trim().toLowerCase(), now = order[at];
  order = first.names.map((_, i) => i).filter(i => first.names[i].toLowerCase().includes(wanted));
  if (key !== "") {
    const values = first.values[key], sign = (first.keys[key].lower ? 1 : -1) * (down ? -1 : 1);
    order.sort((a, b) => (values[a] === null) - (values[b] === null) || (values[a] === null ? 0 : sign * (values[a] - values[b])));
  } else if (down) order.reverse();
  $("list").replaceChildren(...order.map((i, row) => {
    const item = make("li", first.names[i]);
    item.setAttribute("role", "option");
    item.id = "item-" + i;
    if (key !== "") item.append(make("span", first.texts[key][i]));
    item.addEventListener("click", () => { at = row; show(); fold(); });
    return item;
  }));
  at = Math.max(0, order.indexOf(now));
  show();
};

const other = i => runs.length < 2 ? -1 : runs[1].ids.length ? runs[1].ids.indexOf(runs[0].ids[i]) : -1;

const hits = (run, number, i, top5) => {
  const all = make("ol", "", "hits");
  top5.forEach((column, k) => {
    const right = column === run.target[i], item = make("li", "", right ? "is-right" : "");
    const name = run.gallery[column] ?? String(column);
    if (run.indices.includes(column) && run.stages.some(s => s.stage === "seen")) item.append(picture(number, "seen", column, 0, name));
    item.append(`${k + 1}. ${name}${right ? " ✓" : ""}`);
    all.append(item);
  });
  return all;
};

const column = (number, i, rival) => {
  const run = runs[number], panel = make("section", "", "panel one"), index = run.indices[i];
  if (runs.length > 1) panel.append(make("h3", run.name));
  const shown = make("div", "", "shown"), round = Number($("round").value);
  for (const { stage, label, rounds } of run.stages) {
    const figure = make("figure"), r = Math.min(round, rounds - 1);
    figure.append(picture(number, stage, index, r, `${run.names[i]}: ${label}`), make("figcaption", rounds > 1 ? `${label}, round ${r + 1}` : label));
    shown.append(figure);
  }
  panel.append(shown);
  const brain = run.stages.find(s => s.stage === "brain");
  if (brain && brain.rounds > 1) {
    panel.append(make("h4", `drawn from the brain, ${brain.rounds} rounds`));
    const all = make("div", "", "round");
    for (let r = 0; r < brain.rounds; r++) {
      const figure = make("figure");
      figure.append(picture(number, "brain", index, r, `${run.names[i]}, round ${r + 1}`), make("figcaption", run.rounds[0]?.[r] ? `${run.keys[0].label} ${run.rounds[0][r][i]}` : `round ${r + 1}`));
      all.append(figure);
    }
    panel.append(all);
  }
  if (run.top5[i]) panel.append(make("h4", "retrieved from the brain"), hits(run, number, i, run.top5[i]));
  const course = run.windows[0], w = course && course.windows[Math.min(Number($("window").value), course.windows.length - 1)];
  if (w) {
    panel.append(make("h4", `${course.title}: ${Math.round(1000 * w.from)} to ${Math.round(1000 * w.to)} ms, ${w.value.toPrecision(3)} over all images`));
    if (w.top5[i]) panel.append(hits(run, number, i, w.top5[i]));
  }
  const numbers = make("dl", "", "numbers");
  run.keys.forEach((key, k) => {
    const pair = make("div"), theirs = rival ? rival.run.keys.findIndex(other => other.label === key.label) : -1;
    if (theirs >= 0) {
      const x = run.values[k][i], y = rival.run.values[theirs][rival.i];
      if (x !== null && y !== null && x !== y && (x > y) !== key.lower) pair.className = "wins";
    }
    pair.append(make("dt", key.label + (key.lower ? " ↓" : " ↑")), make("dd", run.texts[k][i] + (pair.className ? " ▲" : "")));
    numbers.append(pair);
  });
  panel.append(numbers);
  return panel;
};

const show = () => {
  const i = order[at];
  for (const chosen of $("list").querySelectorAll("[aria-selected]")) chosen.removeAttribute("aria-selected");
  if (i === undefined) { $("name").textContent = "no image of this name"; $("columns").replaceChildren(); $("place").textContent = ""; return; }
  const item = $("item-" + i);
  item.setAttribute("aria-selected", "true");
  $("list").setAttribute("aria-activedescendant", item.id);
  const box = $("list"), above = item.offsetTop - box.offsetTop;
  if (above < box.scrollTop || above > box.scrollTop + box.clientHeight - 34) box.scrollTop = above - box.clientHeight / 2;
  $("name").textContent = runs[0].names[i];
  $("place").textContent = `${at + 1} of ${order.length}`;
  for (const [id, text] of [["round", n => `${n + 1} of ${Number($("round").max) + 1}`], ["window", n => {
    const w = runs[0].windows[0]?.windows[n];
    return w ? `${Math.round(1000 * w.from)} to ${Math.round(1000 * w.to)} ms` : "";
  }]]) $(id + "-text").textContent = text(Number($(id).value));
  const j = other(i);
  const panels = [column(0, i, j >= 0 ? { run: runs[1], i: j } : null)];
  if (runs.length > 1) panels.push(j >= 0 ? column(1, j, { run: runs[0], i }) : make("p", `${runs[1].name} has no image of this id.`, "missing"));
  $("columns").replaceChildren(...panels);
};

const step = by => { at = Math.max(0, Math.min(order.length - 1, at + by)); show(); };

fetch("/runs.json").then(answer => answer.json()).then(data => {
  runs = data.runs;
  const first = runs[0];
  document.title = `${runs.map(run => run.name).join(" and ")} · hvf explore`;
  $("title").textContent = runs.length > 1 ? `${first.name} and ${runs[1].name}` : first.title;
  $("simulated").hidden = !runs.some(run => run.simulated);
  $("protocol").textContent = first.protocol;
  for (const run of runs.filter(run => run.rows.length)) {
    const table = make("table"), head = make("tr");
    head.append(make("th", run.name), ...run.columns.map(text => make("th", text)));
    table.append(head, ...run.rows.map(([name, ...cells]) => {
      const line = make("tr"), first = make("th", name);
      first.scope = "row";
      line.append(first, ...cells.map(text => make("td", text)));
      return line;
    }));
    $("rows").append(table);
    $("rows").hidden = false;
  }
  $("sort").append(new Option("order shown", ""), ...first.keys.map((key, k) => new Option(key.label, k)));
  const rounds = Math.max(1, ...runs.flatMap(run => run.stages.map(s => s.rounds)));
  $("round").max = rounds - 1;
  $("round-label").hidden = rounds < 2;
  const windows = Math.max(0, ...runs.map(run => run.windows[0]?.windows.length ?? 0));
  $("window").max = windows - 1;
  $("window-label").hidden = windows < 1;
  for (const id of ["sort"]) $(id).addEventListener("change", list);
  $("find").addEventListener("input", list);
  for (const id of ["round", "window"]) $(id).addEventListener("input", show);
  $("worst").addEventListener("click", () => { $("worst").setAttribute("aria-pressed", $("worst").getAttribute("aria-pressed") !== "true"); list(); });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", event => {
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -order.length, End: order.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by);
  });
  narrow.addEventListener("change", fold);
  fold();
  list();
});
