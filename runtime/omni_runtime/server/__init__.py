"""An HTTP and WebSocket server with OpenAI's API, over one engine."""
