// A client of /v1/realtime: sends events, and hands what comes to handlers by type.

export class Realtime {
  /** @param {Record<string, (event: any) => void>} handlers by event type; `closed` at the end */
  constructor(handlers) {
    this.handlers = handlers;
  }

  connect(key) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const protocols = ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])];
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/realtime`, protocols);
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      this.handlers[event.type]?.(event);
    };
    this.socket.onclose = () => this.handlers.closed?.();
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => resolve();
      this.socket.onerror = () => reject(new Error("the server cannot be reached"));
    });
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(type, fields = {}) {
    if (this.open) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  update(session) {
    this.send("session.update", { session: { type: "realtime", ...session } });
  }

  item(content) {
    const item = { type: "message", role: "user", content };
    this.send("conversation.item.create", { item });
  }

  close() {
    this.socket?.close();
  }
}
