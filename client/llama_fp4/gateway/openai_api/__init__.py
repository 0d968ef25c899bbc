"""The requests and answers of OpenAI's API, one module for each endpoint."""
