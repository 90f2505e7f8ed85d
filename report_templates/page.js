"use strict";
// The table of all rows: sort, filter, open. Texts from the run are only ever set as text.
{
  const FIRST = 200;
  const MORE = 1000;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("rows").textContent);
  const columns = data.columns;
  const rows = data.rows.map(([cells, groups, flagged, picture]) => ({
    cells,
    groups,
    flagged,
    picture,
  }));
  const listed = columns.map((column, place) => place).filter((place) => columns[place].title);
  const collator = new Intl.Collator("en", { numeric: true });
  const state = { column: 0, descending: false, query: "", group: 0, shown: FIRST };
  let found = [];
  let opened = null;

  const element = (name, text = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const textOf = (cell) => (typeof cell === "string" ? cell : cell[0]);
  const count = (number) => number.toLocaleString("en-GB");
  const fill = (sentence, values) =>
    sentence.replace(/\{(\w+)\}/g, (_, name) => count(values[name]));

  const compare = (one, other) => {
    const [left, right] = [one.cells[state.column], other.cells[state.column]];
    if (left === "" || right === "") return (left === "") - (right === "");
    const order =
      typeof left === "string" ? collator.compare(left, right) : left[1] - right[1];
    return state.descending ? -order : order;
  };

  const button = () => {
    const made = element("button");
    made.type = "button";
    made.className = "open";
    made.setAttribute("aria-haspopup", "dialog");
    return made;
  };

  // An empty line, to be copied: that is several times as fast as making each one.
  const pattern = element("tr");
  for (const place of listed) {
    const cell = element(place ? "td" : "th");
    if (columns[place].is_numeric) cell.classList.add("number");
    if (place > 2) cell.classList.add("minor");
    if (!place) cell.scope = "row";
    if (!place) cell.append(button());
    pattern.append(cell);
  }

  const line = (row) => {
    const made = pattern.cloneNode(true);
    if (row.flagged) made.className = "flagged";
    row.button = made.querySelector("button");
    listed.forEach((place, index) => {
      (index ? made.cells[index] : row.button).textContent = textOf(row.cells[place]);
    });
    return made;
  };

  const list = (limit) => {
    const body = byId("films-table").tBodies[0];
    const start = body.rows.length;
    const fresh = document.createDocumentFragment();
    for (const row of found.slice(start, limit)) fresh.append(line(row));
    body.append(fresh);
    const shown = body.rows.length;
    const status = byId("count").dataset;
    const sentence = shown < found.length ? status.part : status.all;
    byId("count").textContent = fill(sentence, {
      found: found.length,
      all: rows.length,
      shown,
    });
    const left = found.length - shown;
    byId("more").textContent = fill(byId("more").dataset.text, { next: Math.min(MORE, left) });
    byId("more").parentElement.hidden = !left;
    state.shown = shown;
  };

  const renew = () => {
    const query = state.query.toLowerCase();
    found = rows.filter(
      (row) => row.groups.includes(state.group) && row.cells[0].toLowerCase().includes(query),
    );
    found.sort(compare);
    byId("films-table").tBodies[0].replaceChildren();
    list(FIRST);
  };

  const sortBy = (place) => {
    // Numbers start with the highest, words with the first.
    state.descending = state.column === place ? !state.descending : columns[place].is_numeric;
    state.column = place;
    heads.forEach((head, index) => {
      if (listed[index] !== place) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    });
    renew();
  };

  const picturesOf = (row) => {
    const shown = [...document.querySelectorAll("main img[data-picture]")].find(
      (picture) => row.picture && picture.dataset.picture === row.picture,
    );
    const frame = shown?.closest(".film");
    return frame ? [...frame.querySelectorAll("img")] : [];
  };

  const show = (row) => {
    opened = row;
    byId("film-name").textContent = row.cells[0];
    const pictures = picturesOf(row).map((picture) => {
      const copy = element("img");
      copy.src = picture.src;
      copy.alt = picture.alt;
      return copy;
    });
    byId("film-pictures").replaceChildren(...pictures);
    byId("film-pictures").hidden = !pictures.length;
    byId("film-no-picture").hidden = pictures.length > 0;
    byId("film-fields").replaceChildren(
      ...columns.flatMap((column, place) => {
        const text = textOf(row.cells[place]);
        if (!place || !text) return [];
        const field = element("tr");
        const head = element("th", column.full_title);
        head.scope = "row";
        field.append(head, element("td", text));
        return [field];
      }),
    );
    const place = found.indexOf(row);
    byId("film-previous").setAttribute("aria-disabled", String(place <= 0));
    byId("film-next").setAttribute("aria-disabled", String(place < 0 || place + 1 >= found.length));
  };

  const open = (row) => {
    show(row);
    byId("film").showModal();
  };

  const step = (distance) => {
    const place = found.indexOf(opened);
    const next = found[place + distance];
    if (place >= 0 && next) show(next);
  };

  // A picture of the gallery opens its film too.
  const byPicture = new Map();
  for (const row of [...rows].reverse()) byPicture.set(row.picture, row);
  for (const film of document.querySelectorAll("main .film")) {
    const row = byPicture.get(film.querySelector("img[data-picture]")?.dataset.picture);
    if (row) {
      const name = film.querySelector(".name");
      const opener = button();
      opener.textContent = name.textContent;
      opener.addEventListener("click", () => open(row));
      name.replaceChildren(opener);
    }
  }

  const heads = rows.length ? [...byId("films-table").tHead.rows[0].cells] : [];
  if (rows.length) {
    heads.forEach((head, index) =>
      head.firstElementChild.addEventListener("click", () => sortBy(listed[index])),
    );
    heads[0].setAttribute("aria-sort", "ascending");
    byId("query").addEventListener("input", (event) => {
      state.query = event.target.value.normalize("NFC");
      renew();
    });
    byId("group").addEventListener("change", (event) => {
      state.group = Number(event.target.value);
      renew();
    });
    byId("films-table").tBodies[0].addEventListener("click", (event) => {
      const line = event.target.closest(".open")?.closest("tr");
      if (line) open(found[line.sectionRowIndex]);
    });
    byId("more").addEventListener("click", () => {
      const next = state.shown;
      list(next + MORE);
      found[next]?.button.focus();
    });
    byId("plain").remove();
    byId("browse").hidden = false;
    renew();

    // Paper shows what the filter lets through, up to as many rows as the PDF prints.
    let before = null;
    addEventListener("beforeprint", () => {
      before = state.shown;
      list(Math.max(before, Number(byId("films-table").dataset.printCap)));
    });
    addEventListener("afterprint", () => {
      const body = byId("films-table").tBodies[0];
      while (body.rows.length > before) body.lastElementChild.remove();
      list(before);
    });
  }

  // What is wider than the window scrolls by itself, by keyboard too.
  for (const wide of document.querySelectorAll("main section table, main img.wide")) {
    if (wide.closest("#browse")) continue;
    const frame = element("div");
    frame.className = "scroll";
    wide.replaceWith(frame);
    frame.append(wide);
    new ResizeObserver(() => {
      const scrolls = frame.scrollWidth > frame.clientWidth;
      frame.toggleAttribute("tabindex", scrolls);
      if (scrolls) frame.tabIndex = 0;
    }).observe(frame);
  }

  byId("film-close").addEventListener("click", () => byId("film").close());
  byId("film-previous").addEventListener("click", () => step(-1));
  byId("film-next").addEventListener("click", () => step(1));
  byId("film").addEventListener("close", () => {
    if (opened.button?.isConnected && document.activeElement?.closest("#browse")) {
      opened.button.focus();
    }
  });
}
