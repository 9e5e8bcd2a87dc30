// Galleries: sorted and searched by their controls; cards walked with the arrow keys, opened with Enter.
const dialog = document.querySelector("dialog");
const AT_ONCE = 24; // cards; more at a touch
for (const gallery of document.querySelectorAll(".gallery")) {
  const data = JSON.parse(document.getElementById(gallery.id + "-data").textContent);
  const controls = gallery.previousElementSibling;
  const [select, worst, search, count] = ["select", "button", "input", "output"].map(s => controls.querySelector(s));
  const cards = [...gallery.children];
  const more = gallery.nextElementSibling.querySelector("button");
  let most = AT_ONCE;
  const cut = () => {
    shown.forEach((card, i) => { card.hidden = i >= most; });
    const left = shown.length - most;
    more.hidden = left <= 0;
    more.textContent = "show " + Math.min(left, 4 * AT_ONCE) + " more of " + left;
  };
  const place = new Map(cards.map((card, i) => [card, i]));
  let shown = cards;
  const arrange = () => {
    const down = worst.getAttribute("aria-pressed") === "true", key = select.value, wanted = search.value.trim().toLowerCase();
    let ordered = [...cards];
    if (key !== "") {
      const column = data.columns[key], sign = (data.keys[key].lower ? 1 : -1) * (down ? -1 : 1);
      ordered.sort((a, b) => {
        const x = column[place.get(a)], y = column[place.get(b)];
        return (x === null) - (y === null) || (x === null ? 0 : sign * (x - y));
      });
    } else if (down) ordered.reverse();
    for (const card of cards) {
      card.hidden = wanted !== "" && !card.dataset.name.includes(wanted);
      const value = card.querySelector("h3 span");
      if (key !== "") value.textContent = data.keys[key].label + " " + data.texts[key][place.get(card)];
      else value.textContent = value.dataset.text;
    }
    gallery.append(...ordered);
    shown = ordered.filter(card => !card.hidden);
    for (const card of cards) card.tabIndex = -1;
    if (shown.length) shown[0].tabIndex = 0;
    cut();
    count.textContent = shown.length + " of " + cards.length;
    worst.textContent = key === "" ? "reverse" : "worst first";
  };
  select.addEventListener("change", arrange);
  search.addEventListener("input", arrange);
  worst.addEventListener("click", () => {
    worst.setAttribute("aria-pressed", worst.getAttribute("aria-pressed") !== "true");
    arrange();
  });
  more.addEventListener("click", () => {
    const first = shown[most];
    most += 4 * AT_ONCE;
    cut();
    focus(first);
  });
  const focus = card => {
    if (card.hidden) {
      most = AT_ONCE * Math.ceil((shown.indexOf(card) + 1) / AT_ONCE);
      cut();
    }
    for (const other of shown) if (other.tabIndex === 0) other.tabIndex = -1;
    card.tabIndex = 0;
    card.focus();
    card.scrollIntoView({ block: "nearest" });
  };
  const step = (card, by) => shown[Math.max(0, Math.min(shown.length - 1, shown.indexOf(card) + by))];
  let opened = null;
  const open = card => {
    opened = card;
    const i = place.get(card), body = dialog.querySelector("div");
    dialog.querySelector("h3").textContent = card.querySelector("h3").firstChild.textContent;
    const list = document.createElement("dl");
    data.keys.forEach((key, k) => {
      const pair = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = key.label + (key.lower ? " ↓" : " ↑");
      dd.textContent = data.texts[k][i];
      pair.append(dt, dd);
      list.append(pair);
    });
    body.replaceChildren(...[...card.children].slice(1).map(part => part.cloneNode(true)), list);
    if (!dialog.open) dialog.showModal();
    dialog.dataset.gallery = gallery.id;
  };
  gallery.addEventListener("click", event => {
    const card = event.target.closest(".card");
    if (card) open(card);
  });
  gallery.addEventListener("keydown", event => {
    const card = event.target.closest(".card");
    if (!card) return;
    const across = Math.max(1, Math.round(gallery.clientWidth / (card.offsetWidth + 14)));
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -shown.length, End: shown.length };
    if (event.key in by) focus(step(card, by[event.key]));
    else if (event.key === "Enter" || event.key === " ") open(card);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("keydown", event => {
    if (dialog.dataset.gallery !== gallery.id) return;
    if (event.key === "ArrowRight") open(step(opened, 1));
    if (event.key === "ArrowLeft") open(step(opened, -1));
  });
  dialog.addEventListener("close", () => { if (dialog.dataset.gallery === gallery.id && opened) focus(opened); });
  arrange();
}
dialog.querySelector("button").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
