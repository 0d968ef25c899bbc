// Beside the chat page's `Markdown`: what it makes of a text, and what HTML of a reference says, as
// outlines that can be compared, such as p["a "strong["b"]].

const outline = (node) => {
  if (node.nodeType === Node.TEXT_NODE) return JSON.stringify(node.data);
  const link = node.localName === 'a' ? `(${node.getAttribute('href')})` : '';
  const start = node.localName === 'ol' && node.start !== 1 ? node.start : '';
  return `${node.localName}${link}${start}[${[...node.childNodes].map(outline).join('')}]`;
};
const outlines = (root) => {
  root.normalize();
  return [...root.childNodes].map(outline).join('');
};
const unwrap = (root, selector) => {
  for (const each of root.querySelectorAll(selector)) each.replaceWith(...each.childNodes);
};

function shown(text, cuts, ended) {
  const root = document.createElement('div');
  const markdown = new Markdown(root);
  for (const cut of cuts) markdown.update(text.slice(0, cut), false);
  markdown.update(text, ended);
  for (const head of root.querySelectorAll('.code > div')) head.remove();
  unwrap(root, '.code, .table, bdi');
  return root;
}
const each = (text) => Array.from(text, (_, index) => index + 1);

window.whole = (text) => outlines(shown(text, [], true));
window.pieces = (text) => outlines(shown(text, each(text), true));
window.begun = (text) => outlines(shown(text, each(text), false));
window.links = (text) => [...shown(text, [], true).querySelectorAll('a')].map((link) => link.getAttribute('href'));

/** HTML in the page's form: its headings begin at h3, and a list item's text is a paragraph. */
window.reference = (html) => {
  const root = new DOMParser().parseFromString(`<div>${html}</div>`, 'text/html').body.firstChild;
  unwrap(root, 'thead, tbody');
  for (const item of root.querySelectorAll('li')) {
    let paragraph = null;
    for (const node of [...item.childNodes]) {
      const isBlank = node.nodeType === Node.TEXT_NODE && !node.data.trim();
      if (/^(p|[uo]l|pre|blockquote|table|h\d|hr)$/.test(node.localName)) paragraph = null;
      else if (!isBlank) {
        if (!paragraph) item.insertBefore(paragraph = document.createElement('p'), node);
        paragraph.append(node);
      }
    }
  }
  for (const heading of root.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const lower = document.createElement(`h${Math.min(6, Number(heading.localName[1]) + 2)}`);
    lower.append(...heading.childNodes);
    heading.replaceWith(lower);
  }
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const blank = [];
  while (texts.nextNode()) {
    const node = texts.currentNode;
    const parent = node.parentNode;
    if (parent.closest('pre')) continue;
    node.data = node.data.replace(/\n/g, parent.localName === 'code' ? ' ' : '');
    if (!node.data.trim() && /^(div|[uo]l|li|blockquote|table|tr)$/.test(parent.localName)) blank.push(node);
  }
  for (const node of blank) node.remove();
  return outlines(root);
};
