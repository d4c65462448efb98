// The conversation as text: what was said, and of a reply that was cut the part nobody heard.

export class Captions {
  constructor(log) {
    this.log = log;
    this.lines = new Map();
  }

  user(text) {
    this.line("user").textContent = text;
  }

  note(text) {
    this.line("note").textContent = text;
  }

  picture(url) {
    const image = document.createElement("img");
    image.src = url;
    image.alt = "attached picture";
    this.line("user").append(image);
  }

  /** Append to the reply of an item. */
  reply(item, delta) {
    if (!this.lines.has(item)) this.lines.set(item, { element: this.line("reply"), text: "" });
    const line = this.lines.get(item);
    line.text += delta;
    line.element.textContent = line.text;
    this.log.scrollTop = this.log.scrollHeight;
  }

  /** Strike what was not heard. */
  cut(item, heard) {
    const line = this.lines.get(item);
    if (!line || !line.text.startsWith(heard)) return;
    const rest = document.createElement("s");
    rest.textContent = line.text.slice(heard.length);
    line.element.replaceChildren(heard, rest);
  }

  line(kind) {
    const element = document.createElement("p");
    element.className = kind;
    this.log.append(element);
    this.log.scrollTop = this.log.scrollHeight;
    return element;
  }
}
