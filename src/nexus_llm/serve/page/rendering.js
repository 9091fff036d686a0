// A model's words as page elements. They are only ever set as text: none becomes HTML, a link or an image.

const element = id => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const LIST_ITEM = /^(\s*)([-*+]|\d{1,4}[.)])\s+(.*)$/;
const FENCE = /^\s{0,3}(```+|~~~+)\s*([\w+#.-]*)/;

function kindOf(line) {
  if (/^#{1,6}\s+\S/.test(line)) return "heading";
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return "rule";
  if (LIST_ITEM.test(line)) return /\d/.test(LIST_ITEM.exec(line)[2]) ? "ol" : "ul";
  if (/^\s*>/.test(line)) return "quote";
  if (/^\s*\|.*\|\s*$/.test(line)) return "table";
  return "text";
}

// Markdown cut into blocks: {kind, lines}. An open fence takes all that follows, as while an answer streams.
function blocksOf(markdown) {
  const blocks = [];
  let block = null, fence = "";
  const begin = kind => blocks.push(block = { kind, lines: [] });
  for (const line of markdown.split("\n")) {
    const mark = FENCE.exec(line);
    if (fence) {
      if (mark && line.trim().startsWith(fence) && !mark[2]) { fence = ""; block = null; } else block.lines.push(line);
    } else if (mark) {
      fence = mark[1];
      begin("code");
      block.language = mark[2];
    } else if (!line.trim()) {
      block = null;
    } else {
      const kind = kindOf(line);
      const goesOn = block && (block.kind === kind || (/^[ou]l$/.test(block.kind) && /^\s{2,}/.test(line)));
      if (!goesOn || kind === "heading" || kind === "rule") begin(kind);
      block.lines.push(line);
    }
  }
  return blocks;
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*|\*[^*\s](?:[^*\n]*[^*\s])?\*)/).filter(Boolean).map(piece => {
    if (/^`.+`$/.test(piece)) return make("code", { textContent: piece.slice(1, -1) });
    if (/^\*\*.+\*\*$/.test(piece)) return make("strong", {}, ...inline(piece.slice(2, -2)));
    if (/^\*[^*].*\*$|^\*[^*]\*$/.test(piece)) return make("em", {}, ...inline(piece.slice(1, -1)));
    return piece;
  });
}

const indentOf = line => /^\s*/.exec(line)[0].length;

// A list and the lists below its items: what is indented more than the first item belongs to the one before it.
function list(kind, lines) {
  const items = [];
  for (const line of lines) {
    if (indentOf(line) < indentOf(lines[0]) + 2 && LIST_ITEM.test(line)) items.push([line]);
    else items.at(-1).push(line);
  }
  const node = make(kind, {}, ...items.map(([first, ...rest]) => {
    const below = rest.findIndex(line => LIST_ITEM.test(line)), own = below < 0 ? rest : rest.slice(0, below);
    const words = [LIST_ITEM.exec(first)[3], ...own.map(line => line.trim())].join("\n");
    return make("li", {}, ...inline(words), ...(below < 0 ? [] : [list(kindOf(rest[below]), rest.slice(below))]));
  }));
  if (kind === "ol") node.start = parseInt(lines[0].trim(), 10);
  return node;
}

function table(lines) {
  const rows = lines.map(line => line.trim().slice(1, -1).split("|").map(cell => cell.trim()));
  const hasHead = rows.length > 1 && rows[1].every(cell => /^:?-+:?$/.test(cell));
  const body = make("table", {}, ...rows.filter((_, index) => !(hasHead && index === 1)).map((cells, index) =>
    make("tr", {}, ...cells.map(cell => make(hasHead && index === 0 ? "th" : "td", {}, ...inline(cell))))));
  return make("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Table" }, body);
}

function code(text, language) {
  const copy = make("button", { type: "button", className: "quiet", textContent: "Copy", "aria-label": "Copy code" });
  copy.addEventListener("click", () => copyText(text, copy));
  const words = make("pre", { tabIndex: 0, role: "region", "aria-label": "Code" }, make("code", { textContent: text }));
  const head = make("figcaption", {}, make("span", { textContent: language || "code" }), copy);
  return make("figure", { className: "code" }, head, words);
}

function elementOf({ kind, lines, language }) {
  if (kind === "code") return code(lines.join("\n"), language);
  if (kind === "ul" || kind === "ol") return list(kind, lines);
  if (kind === "table") return table(lines);
  if (kind === "rule") return make("hr");
  if (kind === "heading") return make("h4", {}, ...inline(lines[0].replace(/^#+\s+/, "").replace(/\s+#+\s*$/, "")));
  const text = (kind === "quote" ? lines.map(line => line.replace(/^\s*>\s?/, "")) : lines).join("\n");
  return make(kind === "quote" ? "blockquote" : "p", {}, ...inline(text));
}

// Brings `node` to show `markdown`; blocks that did not change keep their elements, so a long stream stays cheap and
// a selection in it stays.
function show(node, markdown) {
  const blocks = blocksOf(markdown);
  blocks.forEach((block, index) => {
    const source = JSON.stringify(block), old = node.children[index];
    if (old?.source === source) return;
    const made = elementOf(block);
    made.source = source;
    if (old) old.replaceWith(made);
    else node.append(made);
  });
  while (node.children.length > blocks.length) node.lastElementChild.remove();
}

// Puts text on the clipboard and says so on the button. Away from localhost and https only the old way is allowed.
async function copyText(text, button) {
  const name = button.textContent;
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const place = make("textarea", { value: text, className: "away", "aria-hidden": "true" });
    (document.querySelector("dialog[open]") ?? document.body).append(place);
    place.select();
    isCopied = document.execCommand("copy");
    place.remove();
    button.focus();
  }
  button.textContent = isCopied ? "Copied" : "Not allowed";
  announce(isCopied ? "Copied." : "The browser does not allow copying.");
  setTimeout(() => { button.textContent = name; }, 1500);
}
