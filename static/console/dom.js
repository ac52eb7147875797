// Making what the page shows. Everything that came over the wire becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(name, { className, text, title, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (title !== undefined) made.title = title;
  return complete(made, attributes, children);
}

export function drawn(name, attributes = {}, ...children) {
  return complete(document.createElementNS(SVG, name), attributes, children);
}

function complete(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Only where it differs: what is written again is read out again, and laid out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Changes are gathered and shown once a frame, however fast events arrive. */
export function onceAFrame(render) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    // Frames stop in a hidden tab; what waits for one is bounded by its owner.
    requestAnimationFrame(() => {
      scheduled = false;
      render();
    });
  };
}

/** A listener that keeps a form from being sent. */
export function handled(action) {
  return (event) => {
    event.preventDefault();
    action();
  };
}
