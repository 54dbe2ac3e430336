"""The engine over HTTP, as OpenAI's completions API."""
