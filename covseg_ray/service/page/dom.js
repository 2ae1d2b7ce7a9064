// The page's elements.

export const byId = (id) => document.getElementById(id);

/** An element with its properties. Content is text only, never markup: names come from files and from the server. */
export function element(tag, properties = {}, ...content) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
}
